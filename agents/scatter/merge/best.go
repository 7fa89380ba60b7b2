package merge

import (
	"bytes"
	"cmp"
	"container/heap"
	"slices"
)

// rank is what an element is ordered by: a number, or a text.
type rank struct {
	number split
	text   []byte
}

func (r rank) compare(o rank) int {
	return cmp.Or(cmp.Compare(r.number.near, o.number.near), cmp.Compare(r.number.rest, o.number.rest),
		bytes.Compare(r.text, o.text))
}

// element is one that may become a part of the answer.
type element struct {
	raw    []byte
	rank   rank
	unique []byte // nil: nothing else is equal to it
	shard  string
	pos    int // in the partial

	index int // in the heap, while it is there
}

// own makes the element independent of the memory that it was found in.
func (e *element) own() {
	e.raw, e.rank.text, e.unique = bytes.Clone(e.raw), bytes.Clone(e.rank.text), bytes.Clone(e.unique)
}

// best keeps the k best elements that it is offered, and of those that are equal the best
// one. What it keeps does not depend on the order in which they are offered: whatever is
// dropped has k better ones, or a better equal one, and so it would have later.
type best struct {
	k         int
	ascending bool
	heap      worstFirst
	equal     map[string]*element // by unique; only those in the heap
	bytes     int64               // of the raw elements
}

func newBest(k int, ascending bool) *best {
	b := &best{k: k, ascending: ascending, equal: map[string]*element{}}
	b.heap.compare = b.compare
	return b
}

// compare is negative if x comes before y. It is 0 only for an element and itself, as
// long as each shard answers once.
func (b *best) compare(x, y *element) int {
	c := x.rank.compare(y.rank)
	if !b.ascending {
		c = -c
	}
	if c != 0 {
		return c
	}
	return cmp.Or(compareShards(x.shard, y.shard), cmp.Compare(x.pos, y.pos))
}

// admits says whether there may be a place for the element.
func (b *best) admits(e *element) bool {
	return len(b.heap.elements) < b.k || b.compare(e, b.heap.elements[0]) < 0
}

// offer keeps a copy of the element and returns it, or nil if there is no place for it.
func (b *best) offer(e *element) *element {
	if !b.admits(e) {
		return nil
	}
	if e.unique != nil {
		if other, has := b.equal[string(e.unique)]; has {
			if b.compare(e, other) >= 0 {
				return nil
			}
			return b.replace(other, e)
		}
	}
	if len(b.heap.elements) == b.k {
		return b.replace(b.heap.elements[0], e)
	}
	kept := &element{}
	*kept = *e
	heap.Push(&b.heap, kept)
	b.enter(kept)
	return kept
}

// replace puts an element where another one was.
func (b *best) replace(old, e *element) *element {
	if old.unique != nil {
		delete(b.equal, string(old.unique))
	}
	b.bytes -= int64(len(old.raw))
	index := old.index
	*old = *e
	old.index = index
	heap.Fix(&b.heap, index)
	b.enter(old)
	return old
}

func (b *best) enter(e *element) {
	if e.unique != nil {
		b.equal[string(e.unique)] = e
	}
	b.bytes += int64(len(e.raw))
}

// reset forgets all elements.
func (b *best) reset() {
	clear(b.heap.elements)
	b.heap.elements = b.heap.elements[:0]
	clear(b.equal)
	b.bytes = 0
}

// sorted returns the elements, the best one first. Nothing can be offered afterwards.
func (b *best) sorted() []*element {
	slices.SortFunc(b.heap.elements, b.compare)
	return b.heap.elements
}

// worstFirst is a [heap.Interface].
type worstFirst struct {
	elements []*element
	compare  func(x, y *element) int
}

func (h *worstFirst) Len() int           { return len(h.elements) }
func (h *worstFirst) Less(i, j int) bool { return h.compare(h.elements[i], h.elements[j]) > 0 }

func (h *worstFirst) Swap(i, j int) {
	h.elements[i], h.elements[j] = h.elements[j], h.elements[i]
	h.elements[i].index, h.elements[j].index = i, j
}

func (h *worstFirst) Push(x any) {
	e := x.(*element) // which is all that is pushed
	e.index = len(h.elements)
	h.elements = append(h.elements, e)
}

// Pop is needed for the interface only: elements are replaced.
func (h *worstFirst) Pop() any {
	last := len(h.elements) - 1
	e := h.elements[last]
	h.elements = h.elements[:last]
	return e
}
