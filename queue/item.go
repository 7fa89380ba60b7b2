package queue

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of items.
const (
	// maxInput is the longest input, output, key and group, in bytes.
	maxInput = 512
	// maxAttrs bounds the attributes of an item: names and values, in bytes.
	maxAttrs = 512
	// maxItem bounds an item as JSON, in bytes. Only an item of a merge comes near it.
	maxItem = 64 << 10
	// maxReason is what is kept of why something failed, in bytes.
	maxReason = 200
)

// Item is a piece of work: a reference to the data, never the data itself.
type Item struct {
	// Input is a path or URL, at most 512 bytes.
	Input string `json:"input,omitempty"`
	// Inputs are those of a merge.
	Inputs []string `json:"inputs,omitempty"`
	// Attrs are told to the worker, at most 512 bytes in all.
	Attrs map[string]string `json:"attrs,omitempty"`
	// Key makes the enqueueing idempotent: a second item with the same key is the
	// first one, as long as that is unfinished or retained.
	Key string `json:"key,omitempty"`
	// Group orders items: those of one group are worked on one after the other, in
	// the order in which they came.
	Group string `json:"group,omitempty"`
	// Priority from 0 to 9. Higher ones are handed out first.
	Priority int `json:"priority,omitempty"`
	// NotBefore is when the item may be handed out at the earliest. Zero: at once.
	NotBefore time.Time `json:"not_before,omitzero"`
	// Stage in which it begins. Default: the first.
	Stage string `json:"stage,omitempty"`
	// Parent is the item by whose completion this one came.
	Parent string `json:"parent,omitempty"`
}

// check says whether the item can be accepted, and returns it as JSON. The error is a
// *FieldError.
func (it *Item) check() ([]byte, error) {
	for field, s := range map[string]string{"input": it.Input, "key": it.Key, "group": it.Group} {
		if err := checkText(field, s, maxInput); err != nil {
			return nil, err
		}
	}
	for i, s := range it.Inputs {
		if err := checkText(fmt.Sprintf("inputs[%d]", i), s, maxInput); err != nil {
			return nil, err
		}
	}
	size := 0
	for k, v := range it.Attrs {
		size += len(k) + len(v)
	}
	if size > maxAttrs {
		return nil, fieldErrorf("attrs", "%d bytes are more than %d; put data into a file, and its name into the item", size, maxAttrs)
	}
	if err := within("priority", it.Priority, 0, MaxPriority); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(it)
	if err != nil {
		return nil, fieldErrorf("item", "%v", err)
	}
	if len(raw) > maxItem {
		return nil, fieldErrorf("inputs", "the item has %d bytes, more than %d", len(raw), maxItem)
	}
	return raw, nil
}

func checkText(field, s string, most int) error {
	if len(s) > most {
		return fieldErrorf(field, "%d bytes are more than %d", len(s), most)
	}
	if !utf8.ValidString(s) {
		return fieldErrorf(field, "is not UTF-8")
	}
	return nil
}

// ID names an item: its shard and its number there.
type ID struct {
	Shard int
	Seq   uint64
}

// String is "shard-number".
func (id ID) String() string { return strconv.Itoa(id.Shard) + "-" + strconv.FormatUint(id.Seq, 10) }

// ParseID reads what String has written.
func ParseID(s string) (ID, error) {
	shard, seq, ok := strings.Cut(s, "-")
	k, err := strconv.ParseUint(shard, 10, 16)
	n, err2 := strconv.ParseUint(seq, 10, 64)
	if !ok || errors.Join(err, err2) != nil || k >= MaxShards {
		return ID{}, fieldErrorf("id", "%q is not the ID of an item, such as 0-17", s)
	}
	return ID{int(k), n}, nil
}

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseID(string(text))
	return err
}
