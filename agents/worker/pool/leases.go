package pool

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/attempt"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// item is an item in a slot.
type item struct {
	queue.Claimed
	ctx   context.Context // ends when the work on it has to
	end   context.CancelCauseFunc
	lease time.Duration

	mu       sync.Mutex
	progress func() (float64, bool) // nil: there is none to be read
}

// readProgress asks for the progress, if there is any.
func (it *item) readProgress() (float64, bool) {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.progress == nil {
		return 0, false
	}
	return it.progress()
}

// stopProgress returns when the progress is not being read any more, and will not be.
func (it *item) stopProgress() {
	it.mu.Lock()
	defer it.mu.Unlock()
	it.progress = nil
}

// leases renews those of all items in slots.
type leases struct {
	broker extender
	queue  string
	worker string
	log    hclog.Logger
	change chan struct{} // of size 1: the shortest lease may be another one

	mu    sync.Mutex
	items map[attemptKey]*item
}

type attemptKey struct {
	id    queue.ID
	claim uint64
}

// extender is the part of a Broker that is needed here.
type extender interface {
	Extend(ctx context.Context, queue string, e queue.Extend) (queue.Extended, error)
}

func newLeases(b extender, queue, worker string, log hclog.Logger) *leases {
	return &leases{
		broker: b, queue: queue, worker: worker, log: log,
		change: make(chan struct{}, 1), items: map[attemptKey]*item{},
	}
}

// add begins to renew an item's lease.
func (l *leases) add(ctx context.Context, c queue.Claimed, lease time.Duration) *item {
	if lease <= 0 {
		lease = queue.DefaultLease
	}
	it := &item{Claimed: c, lease: lease}
	it.ctx, it.end = context.WithCancelCause(ctx)
	l.mu.Lock()
	l.items[attemptKey{c.ID, c.Claim}] = it
	l.mu.Unlock()
	select {
	case l.change <- struct{}{}:
	default:
	}
	return it
}

// remove ends that.
func (l *leases) remove(it *item) {
	l.mu.Lock()
	delete(l.items, attemptKey{it.ID, it.Claim})
	l.mu.Unlock()
	it.end(nil)
}

// has says whether an attempt is in a slot.
func (l *leases) has(id queue.ID, claim uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.items[attemptKey{id, claim}] != nil
}

// all are the items that are in slots now.
func (l *leases) all() map[attemptKey]*item {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.items)
}

// every is how often leases have to be renewed: three times in the shortest. Zero: there
// are none.
func (l *leases) every() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var shortest time.Duration
	for _, it := range l.items {
		if shortest == 0 || it.lease < shortest {
			shortest = it.lease
		}
	}
	return shortest / 3
}

// run renews leases until ctx ends.
func (l *leases) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var period time.Duration // that the timer was set for; 0: it was not
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.change:
			if every := l.every(); every > 0 && (period == 0 || every < period) {
				period = every
				timer.Reset(every)
			}
		case <-timer.C:
			if period = l.every(); period > 0 {
				timer.Reset(period)
				l.renew(ctx, period)
			}
		}
	}
}

// renew makes one request for each shard.
func (l *leases) renew(ctx context.Context, within time.Duration) {
	shards := map[int]*queue.Extend{}
	seen := map[attemptKey]bool{}
	claims := map[attemptKey]bool{} // those that are in a request; the ID has only the shard
	for k, it := range l.all() {
		seen[k] = true
		e := shards[k.id.Shard]
		if e == nil {
			e = &queue.Extend{Worker: l.worker, Shard: k.id.Shard}
			shards[k.id.Shard] = e
		}
		if c := (attemptKey{queue.ID{Shard: k.id.Shard}, k.claim}); !claims[c] {
			claims[c] = true
			e.Claims = append(e.Claims, k.claim)
		}
		if done, ok := it.readProgress(); ok {
			if e.Progress == nil {
				e.Progress = map[string]float64{}
			}
			e.Progress[k.id.String()] = done
		}
	}
	// An answer that comes after the next request is due is of no use.
	ctx, cancel := context.WithTimeout(ctx, max(within, time.Second))
	defer cancel()
	var all sync.WaitGroup
	for _, e := range shards {
		all.Go(func() {
			res, err := l.broker.Extend(ctx, l.queue, *e)
			if err != nil {
				l.log.Warn("renew leases", "shard", e.Shard, "claims", len(e.Claims), "error", err)
				return
			}
			l.obey(e.Shard, seen, res)
		})
	}
	all.Wait()
}

// obey ends the work on items that were in a request, and are not this worker's any more.
func (l *leases) obey(shard int, seen map[attemptKey]bool, res queue.Extended) {
	lost, cancelled := map[uint64]bool{}, map[queue.ID]bool{}
	for _, c := range res.Lost {
		lost[c] = true
	}
	for _, id := range res.Cancelled {
		cancelled[id] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, it := range l.items {
		switch {
		case k.id.Shard != shard || !seen[k]:
		case cancelled[k.id]:
			it.end(attempt.ErrCancelled)
		case lost[k.claim]:
			it.end(attempt.ErrLost)
		}
	}
}
