package gather

import "sync"

// inbox has results that nobody has taken yet. Whoever puts one in does not wait; what they
// need of memory is bounded before.
type inbox struct {
	ready chan struct{} // of size 1: there is something

	mu     sync.Mutex
	list   []result
	closed bool
}

func newInbox() *inbox { return &inbox{ready: make(chan struct{}, 1)} }

// put adds a result. False: nobody wants it any more.
func (b *inbox) put(r result) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.list = append(b.list, r)
	b.mu.Unlock()
	select {
	case b.ready <- struct{}{}:
	default:
	}
	return true
}

// take takes all.
func (b *inbox) take() []result {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.list
	b.list = nil
	return list
}

// close frees what was not taken, and lets nothing in any more.
func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	free(b.list)
	b.list = nil
}

// free gives back what results hold.
func free(list []result) {
	for _, r := range list {
		if r.answer != nil {
			r.answer.free()
		}
	}
}
