package queue

import "container/heap"

// ready holds the numbers of items that can be handed out, lowest first. Items come
// mostly in the order of their numbers, so they are kept as runs, which makes a million of
// them as cheap as one; those that come back lie in a heap.
//
// A number in it is a hint: the item may have been cancelled since. Who takes it looks.
type ready struct {
	runs []run // rising; runs[first] is the first that is not empty
	head int
	back seqHeap
}

// run is a range of numbers, from the first to before the last.
type run struct{ from, to uint64 }

// add adds a number that is not in it.
func (r *ready) add(seq uint64) {
	if n := len(r.runs); n > r.head {
		last := &r.runs[n-1]
		if seq == last.to {
			last.to++
			return
		}
		if seq < last.to {
			heap.Push(&r.back, seq)
			return
		}
	}
	r.runs = append(r.runs, run{seq, seq + 1})
}

// empty says whether there is none.
func (r *ready) empty() bool { return len(r.runs) == r.head && len(r.back) == 0 }

// min is the lowest number. It must not be empty.
func (r *ready) min() uint64 {
	switch {
	case len(r.runs) == r.head:
		return r.back[0]
	case len(r.back) > 0:
		return min(r.back[0], r.runs[r.head].from)
	default:
		return r.runs[r.head].from
	}
}

// pop takes the lowest number. It must not be empty.
func (r *ready) pop() uint64 {
	if len(r.runs) == r.head || len(r.back) > 0 && r.back[0] < r.runs[r.head].from {
		return heap.Pop(&r.back).(uint64)
	}
	first := &r.runs[r.head]
	seq := first.from
	if first.from++; first.from == first.to {
		r.head++
		if r.head > 64 && r.head > len(r.runs)/2 {
			r.runs = append(r.runs[:0], r.runs[r.head:]...)
			r.head = 0
		}
	}
	return seq
}

// seqHeap is a heap of numbers.
type seqHeap []uint64

func (h seqHeap) Len() int           { return len(h) }
func (h seqHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h seqHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *seqHeap) Push(x any)        { *h = append(*h, x.(uint64)) }
func (h *seqHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// timer is when something has to be looked at.
type timer struct {
	at int64 // milliseconds
	id uint64
}

// timers is a heap of them, the earliest first. Like the numbers in ready they are hints.
type timers []timer

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].at < h[j].at }
func (h timers) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timers) Push(x any)        { *h = append(*h, x.(timer)) }
func (h *timers) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

func (h *timers) add(at int64, id uint64) { heap.Push(h, timer{at, id}) }

// due takes the first one that is due.
func (h *timers) due(now int64) (uint64, bool) {
	if len(*h) == 0 || (*h)[0].at > now {
		return 0, false
	}
	return heap.Pop(h).(timer).id, true
}
