package gather

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Headers of answers.
const (
	// CoverageHeader says how much of what there is has answered:
	// "ok=31, total=32". A parent in a tree counts the leaves below it.
	CoverageHeader = "Scatter-Coverage"
	// MissingHeader names shards that are missing, with the reasons:
	// "7;reason=timeout, 9;reason=refused".
	MissingHeader = "Scatter-Missing"
)

// Reason says why a shard is missing.
type Reason string

// The reasons.
const (
	Timeout   Reason = "timeout"  // no answer within the deadline
	Refused   Reason = "refused"  // no connection
	Reset     Reason = "reset"    // the connection ended before the answer did
	BadStatus Reason = "status"   // an answer with a status that says it failed
	Garbage   Reason = "garbage"  // an answer that is none of HTTP, or none that the merge takes
	TooLarge  Reason = "toolarge" // an answer of more than the limit
	Skipped   Reason = "skipped"  // not waited for: the coverage was enough
	Absent    Reason = "absent"   // it has to be there, and has no instance in the catalog
	Below     Reason = "below"    // it is a parent, and something below it is missing
)

// Missing is a shard that is missing.
type Missing struct {
	Shard  string `json:"shard"`
	Reason Reason `json:"reason"`
	Detail string `json:"detail,omitempty"` // for people
}

// Coverage says how much of what there is is in an answer.
type Coverage struct {
	// OK and Total count leaves: 1 for each shard, or as many as a parent says it has.
	OK    int `json:"ok"`
	Total int `json:"total"`
	// Missing are shards that are not in the answer, or not whole.
	Missing []Missing `json:"missing,omitempty"`

	merged map[string]int // leaves of shards that were merged
}

// Share is OK of Total; 1 if there is nothing.
func (c Coverage) Share() float64 {
	if c.Total == 0 {
		return 1
	}
	return float64(c.OK) / float64(c.Total)
}

// Whole is whether nothing is missing.
func (c Coverage) Whole() bool { return c.OK == c.Total }

// maxNamed bounds the shards that are named in a header.
const maxNamed = 32

// Set writes the headers.
func (c Coverage) Set(h http.Header) {
	h.Set(CoverageHeader, fmt.Sprintf("ok=%d, total=%d", c.OK, c.Total))
	if len(c.Missing) == 0 {
		h.Del(MissingHeader)
		return
	}
	var b strings.Builder
	for i, m := range c.Missing[:min(len(c.Missing), maxNamed)] {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quote(m.Shard))
		b.WriteString(";reason=")
		b.WriteString(string(m.Reason))
	}
	h.Set(MissingHeader, b.String())
}

var token = regexp.MustCompile(`^[a-zA-Z0-9_.:/-]+$`)

// quote writes a name as a string of a structured field (RFC 8941), or as it is if it is a
// token or a number.
func quote(name string) string {
	if token.MatchString(name) {
		return name
	}
	return strconv.QuoteToASCII(name)
}

// maxBelow bounds what a parent may say that it has.
const maxBelow = 1 << 20

// below is what an answer says of the leaves behind it. An answer that says nothing, or
// nonsense, is one leaf.
func below(h http.Header) (ok, total int) {
	values := h[CoverageHeader]
	if len(values) == 0 {
		return 1, 1
	}
	ok, total = -1, -1
	for part := range strings.SplitSeq(values[0], ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > maxBelow {
			continue
		}
		switch name {
		case "ok":
			ok = n
		case "total":
			total = n
		}
	}
	if ok < 0 || total < 1 || ok > total {
		return 1, 1
	}
	return ok, total
}

// sortMissing orders by the shards' names, numbers as such.
func sortMissing(all []Missing) {
	slices.SortFunc(all, func(a, b Missing) int { return compareNames(a.Shard, b.Shard) })
}

func compareNames(a, b string) int {
	m, errA := strconv.Atoi(a)
	n, errB := strconv.Atoi(b)
	if errA == nil && errB == nil {
		return cmp.Compare(m, n)
	}
	return cmp.Compare(a, b)
}
