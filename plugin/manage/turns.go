package manage

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Times within which writes to one job are spread at random. Within a tenth of
// the least one, 16 processes that began in the same moment met so often that
// Nomad, which remembers six versions of a job, could not tell most of them
// afterwards what had become of their counts.
const (
	leastSpread = 500 * time.Millisecond
	mostSpread  = 4 * time.Second
)

// turns lets one after the other write to a job, and keeps some time between
// this process and those of other nodes, which often want the same in the same
// moment. The more it meets them, the longer.
type turns struct {
	least time.Duration // leastSpread

	mu   sync.Mutex // guards jobs and their users
	jobs map[[2]string]*turn
}

// turn is that of one job, while somebody waits for it or has it.
type turn struct {
	users  int
	taken  chan struct{} // has one element while the turn is taken
	spread time.Duration // least to mostSpread; for the one that has the turn
}

// take waits for the turn and then for a random time. If ctx ends before, it
// returns false.
func (t *turns) take(ctx context.Context, namespace, job string) (*turn, func(), bool) {
	key := [2]string{namespace, job}
	t.mu.Lock()
	one, ok := t.jobs[key]
	if !ok {
		one = &turn{taken: make(chan struct{}, 1), spread: t.least}
		t.jobs[key] = one
	}
	one.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(t.jobs, key)
		}
	}
	select {
	case one.taken <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, nil, false
	}
	done := func() {
		<-one.taken
		leave()
	}
	if !pause(ctx, rand.N(one.spread)) { //nolint:gosec // spreads load
		done()
		return nil, nil, false
	}
	return one, done, true
}

// met notes whether another process was met in one's turn.
func (t *turns) met(one *turn, another bool) {
	if another {
		one.spread = min(2*one.spread, mostSpread)
	} else {
		one.spread = max(one.spread/2, t.least)
	}
}
