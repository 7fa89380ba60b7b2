package merge

import (
	"bytes"
	"context"
	"maps"
	"slices"
)

// JSONMergeConfig is for [NewJSONMerge].
type JSONMergeConfig struct {
	// MaxBytes is how much memory the merge of one request may keep, roughly. A name in an
	// object counts for some 160 bytes more than its length. Default: DefaultMaxBytes.
	MaxBytes int64
}

// JSONMerge merges JSON values. Objects are merged name by name, at all levels, and arrays
// are appended in the order of arrival. Of other values that of the lowest shard is taken;
// shards whose names are whole numbers are compared as such and come before others. When
// shards disagree about whether something is an object, an array or neither, then the
// lowest shard decides, and those of the same kind are merged.
//
// So the answer does not depend on the order of arrival but for the order in arrays. The
// names in an object come out sorted. The answer to nothing is {}.
type JSONMerge struct{ maxBytes int64 }

// NewJSONMerge returns an error that names the field that is wrong, if any.
func NewJSONMerge(cfg JSONMergeConfig) (*JSONMerge, error) {
	maxBytes, err := orDefault("MaxBytes", cfg.MaxBytes, DefaultMaxBytes)
	if err != nil {
		return nil, err
	}
	return &JSONMerge{maxBytes}, nil
}

// Begin implements [Merger].
func (j *JSONMerge) Begin(_ context.Context, _ Request, w Writer) (Merge, error) {
	return &tree{w: w, maxBytes: j.maxBytes}, nil
}

// SumConfig is for [NewSum].
type SumConfig struct {
	// MaxBytes is how much memory the merge of one request may keep, roughly. A name in an
	// object counts for some 160 bytes more than its length, and a number in an array for
	// some 64. Default: DefaultMaxBytes.
	MaxBytes int64
}

// Sum merges JSON values as [JSONMerge] does, and adds numbers up: exactly while they are
// written as integers and an int64 holds the sum, otherwise as float64, where the last
// digits depend on the order of arrival. A number that only one shard has stays as it is
// written.
//
// Arrays have to be of numbers and as long as the first one in their place; they are added
// up element by element. A partial with other arrays is garbage, and so is one with which
// a sum would be out of range.
type Sum struct{ maxBytes int64 }

// NewSum returns an error that names the field that is wrong, if any.
func NewSum(cfg SumConfig) (*Sum, error) {
	maxBytes, err := orDefault("MaxBytes", cfg.MaxBytes, DefaultMaxBytes)
	if err != nil {
		return nil, err
	}
	return &Sum{maxBytes}, nil
}

// Begin implements [Merger].
func (s *Sum) Begin(_ context.Context, _ Request, w Writer) (Merge, error) {
	return &tree{w: w, maxBytes: s.maxBytes, sum: true}, nil
}

// tree is a merge of values.
type tree struct {
	w        Writer
	maxBytes int64
	sum      bool
	root     node
	size     int64 // what the tree takes, roughly
}

// node is what the shards have said about one place in the answer. What they said is kept
// by its kind until the end, as shards may yet come that decide between them.
type node struct {
	object *object
	array  *array
	number *total
	scalar *scalar
}

// From is the lowest shard that had a value of the kind here.
type (
	object struct {
		from   string
		fields map[string]*node
	}
	array struct {
		from    string
		raw     []byte   // elements with commas; of JSONMerge
		numbers []number // of Sum
	}
	total struct {
		from string
		sum  number
	}
	scalar struct {
		from string
		raw  []byte // that of the shard
	}
)

func (t *tree) Add(p Partial) error {
	v, err := parse(p.Body, t.sum, t.maxBytes)
	if err != nil {
		return err
	}
	if t.sum {
		if err := check(&t.root, v); err != nil {
			return err
		}
	}
	t.add(&t.root, v, p.Shard)
	if t.size > t.maxBytes {
		return tooLarge(t.maxBytes)
	}
	return nil
}

// check returns an error if the value cannot be summed with what is there. It changes
// nothing, so that nothing is taken of a partial that is garbage.
func check(n *node, v value) error {
	switch {
	case v.kind == objectKind && n.object != nil:
		for key, member := range v.fields {
			next := n.object.fields[key]
			if next == nil {
				continue
			}
			if err := check(next, member); err != nil {
				return err
			}
		}
	case v.kind == numberKind && n.number != nil:
		return checkSum(n.number.sum, v.numbers[0])
	case v.kind == arrayKind && n.array != nil:
		if have, got := len(n.array.numbers), len(v.numbers); have != got {
			return garbage("an array of %d numbers cannot be summed with one of %d", got, have)
		}
		for i, a := range n.array.numbers {
			if err := checkSum(a, v.numbers[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkSum(a, b number) error {
	if _, ok := a.plus(b); !ok {
		return garbage("the sum of %.40s and %.40s is out of range", a, b)
	}
	return nil
}

// add merges a value into the tree. It copies what it keeps.
func (t *tree) add(n *node, v value, shard string) {
	switch v.kind {
	case objectKind:
		if n.object == nil {
			n.object = &object{shard, map[string]*node{}}
		}
		n.object.from = lowest(n.object.from, shard)
		for key, member := range v.fields {
			next := n.object.fields[key]
			if next == nil {
				next = &node{}
				n.object.fields[key] = next
				t.size += nodeCost + int64(len(key))
			}
			t.add(next, member, shard)
		}
	case arrayKind:
		if n.array == nil {
			n.array = &array{from: shard, numbers: v.numbers}
			for _, a := range v.numbers {
				t.size += numberCost + int64(len(a.raw))
			}
		} else {
			n.array.plus(v.numbers)
		}
		n.array.from = lowest(n.array.from, shard)
		if len(v.raw) > 0 {
			if len(n.array.raw) > 0 {
				n.array.raw = append(n.array.raw, ',')
			}
			n.array.raw = append(n.array.raw, v.raw...)
			t.size += 1 + int64(len(v.raw))
		}
	case numberKind:
		if n.number == nil {
			n.number = &total{shard, v.numbers[0]}
			t.size += numberCost + int64(len(v.numbers[0].raw))
		} else {
			n.number.sum, _ = n.number.sum.plus(v.numbers[0]) // checked
		}
		n.number.from = lowest(n.number.from, shard)
	case scalarKind:
		switch {
		case n.scalar == nil:
			n.scalar = &scalar{shard, bytes.Clone(v.raw)}
			t.size += int64(len(v.raw))
		case compareShards(shard, n.scalar.from) < 0:
			t.size += int64(len(v.raw) - len(n.scalar.raw))
			*n.scalar = scalar{shard, bytes.Clone(v.raw)}
		}
	}
}

// plus adds numbers, of which there are as many: check has made sure.
func (a *array) plus(numbers []number) {
	for i, b := range numbers {
		a.numbers[i], _ = a.numbers[i].plus(b)
	}
}

func lowest(a, b string) string {
	if compareShards(a, b) <= 0 {
		return a
	}
	return b
}

func (t *tree) Finish() error {
	o := begin(t.w, typeJSON)
	if t.root == (node{}) {
		o.text("{}")
	} else {
		t.root.write(o)
	}
	return o.flush()
}

func (t *tree) Abort() {}

// write writes the kind of value that the lowest shard had.
func (n *node) write(o *output) {
	found, from, offered := scalarKind, "", false
	offer := func(k kind, shard string) {
		if !offered || compareShards(shard, from) < 0 {
			found, from, offered = k, shard, true
		}
	}
	if n.object != nil {
		offer(objectKind, n.object.from)
	}
	if n.array != nil {
		offer(arrayKind, n.array.from)
	}
	if n.number != nil {
		offer(numberKind, n.number.from)
	}
	if n.scalar != nil {
		offer(scalarKind, n.scalar.from)
	}
	switch found {
	case objectKind:
		n.object.write(o)
	case arrayKind:
		n.array.write(o)
	case numberKind:
		o.text(n.number.sum.String())
	case scalarKind:
		o.bytes(n.scalar.raw)
	}
}

func (b *object) write(o *output) {
	lead := "{"
	for _, key := range slices.Sorted(maps.Keys(b.fields)) {
		o.text(lead)
		o.quoted(key)
		o.text(":")
		b.fields[key].write(o)
		lead = ","
	}
	if lead == "{" {
		o.text(lead)
	}
	o.text("}")
}

func (a *array) write(o *output) {
	o.text("[")
	o.bytes(a.raw)
	for i, n := range a.numbers {
		if i > 0 {
			o.text(",")
		}
		o.text(n.String())
	}
	o.text("]")
}
