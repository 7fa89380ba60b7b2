// Package fake has brokers in memory, for tests of what stands before a broker. They know
// no leases, stages, groups or limits; what a real broker does is tested in package queue
// and in e2e.
package fake

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

// Cluster is what brokers share.
type Cluster struct {
	mu      sync.Mutex
	queues  map[string]*state
	changed chan struct{} // closed and replaced at each change
}

// state is a queue.
type state struct {
	cfg    queue.Config
	shards []*shard
}

// shard is a part of a queue.
type shard struct {
	leader         string // address; empty: nobody
	paused, sealed bool
	claims         uint64
	items          []*item // the ID's number is the index
	recurring      map[string]queue.Recurring
}

type item struct {
	queue.Item
	state  string
	claim  uint64
	worker string
	reason string
}

// NewCluster makes one without queues.
func NewCluster() *Cluster {
	return &Cluster{queues: map[string]*state{}, changed: make(chan struct{})}
}

// Lead makes a broker the leader of a shard; "" is nobody.
func (c *Cluster) Lead(name string, k int, address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queues[name].shards[k].leader = address
	c.change()
}

func (c *Cluster) change() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Broker is one of them. A queue that it makes is led by it.
type Broker struct {
	*Cluster
	Address string

	fail error // of the next change; guarded by Cluster.mu
}

// Fail makes the next change of a shard that this broker leads fail.
func (b *Broker) Fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

// on changes a shard that this broker leads.
func (b *Broker) on(name string, k int, do func(s *shard) error) error {
	return b.look(name, k, func(s *shard) error {
		err := b.fail
		if b.fail = nil; err != nil {
			return err
		}
		defer b.change()
		return do(s)
	})
}

// look reads a shard that this broker leads.
func (b *Broker) look(name string, k int, do func(s *shard) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queues[name]
	if q == nil {
		return fmt.Errorf("queue %q: %w", name, queue.ErrUnknownQueue)
	}
	if k < 0 || k >= len(q.shards) {
		return &queue.FieldError{Field: "shard", Problem: "there is no such shard"}
	}
	if s := q.shards[k]; s.leader != b.Address {
		return &queue.NotLeaderError{Queue: name, Shard: k, Leader: s.leader}
	}
	return do(q.shards[k])
}

// Health says that all is well.
func (b *Broker) Health() error { return nil }

// Queues returns the names.
func (b *Broker) Queues() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.queues))
}

// Config returns a configuration.
func (b *Broker) Config(name string) (queue.Config, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q := b.queues[name]; q != nil {
		return q.cfg, nil
	}
	return queue.Config{}, fmt.Errorf("queue %q: %w", name, queue.ErrUnknownQueue)
}

// Create makes a queue.
func (b *Broker) Create(_ context.Context, name string, cfg queue.Config) (queue.Config, error) {
	cfg, err := cfg.WithDefaults()
	if err != nil {
		return cfg, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	q := &state{cfg: cfg}
	for range cfg.Shards {
		q.shards = append(q.shards, &shard{leader: b.Address, recurring: map[string]queue.Recurring{}})
	}
	b.queues[name] = q
	b.change()
	return cfg, nil
}

// Delete removes a queue.
func (b *Broker) Delete(_ context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.queues[name] == nil {
		return fmt.Errorf("queue %q: %w", name, queue.ErrUnknownQueue)
	}
	delete(b.queues, name)
	b.change()
	return nil
}

// Leader returns the address of another leader.
func (b *Broker) Leader(name string, k int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queues[name]
	if q == nil || k >= len(q.shards) || q.shards[k].leader == b.Address {
		return ""
	}
	return q.shards[k].leader
}

// Led returns the shards that it leads.
func (b *Broker) Led(name string) (led []int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q := b.queues[name]; q != nil {
		for k, s := range q.shards {
			if s.leader == b.Address {
				led = append(led, k)
			}
		}
	}
	return led
}

// Enqueue adds items.
func (b *Broker) Enqueue(_ context.Context, name string, k int, items []queue.Item) (out []queue.Enqueued, err error) {
	cfg, err := b.Config(name)
	if err != nil {
		return nil, err
	}
	for i := range items {
		if err := cfg.Check(&items[i]); err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
	}
	err = b.on(name, k, func(s *shard) error {
		if s.sealed {
			return queue.ErrSealed
		}
		for _, it := range items {
			seq := slices.IndexFunc(s.items, func(is *item) bool { return it.Key != "" && is.Key == it.Key })
			twice := seq >= 0
			if !twice {
				seq = len(s.items)
				s.items = append(s.items, &item{Item: it, state: "ready"})
			}
			out = append(out, queue.Enqueued{ID: queue.ID{Shard: k, Seq: uint64(seq)}, Duplicate: twice})
		}
		return nil
	})
	return out, err
}

// Claim hands out items of the shards that it leads.
func (b *Broker) Claim(ctx context.Context, name string, req queue.ClaimRequest) (queue.ClaimResponse, error) {
	out := queue.ClaimResponse{Items: []queue.Claimed{}}
	if req.Worker == "" {
		return out, &queue.FieldError{Field: "worker", Problem: "is missing"}
	}
	waiting, cancel := context.WithTimeout(ctx, time.Duration(req.Wait))
	defer cancel()
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		cfg, err := b.Config(name)
		if err != nil {
			return out, err
		}
		led := b.Led(name)
		if len(led) == 0 {
			return out, &queue.NotLeaderError{Queue: name, Leader: b.Leader(name, 0)}
		}
		finished := len(led) == cfg.Shards
		for _, k := range led {
			had := len(out.Items)
			if err := b.look(name, k, func(s *shard) error {
				err := s.claim(k, req, &out, &finished)
				if len(out.Items) > had {
					b.change()
				}
				return err
			}); err != nil {
				return out, err
			}
		}
		if len(out.Items) > 0 {
			out.Lease = queue.Duration(queue.DefaultLease)
			return out, nil
		}
		if out.Finished = finished; finished {
			return out, nil
		}
		select {
		case <-changed:
		case <-waiting.Done():
			return out, ctx.Err()
		}
	}
}

func (s *shard) claim(k int, req queue.ClaimRequest, out *queue.ClaimResponse, finished *bool) error {
	*finished = *finished && s.sealed && s.left() == 0
	for seq, it := range s.items {
		if it.state != "ready" || s.paused || len(out.Items) >= max(1, req.Max) {
			continue
		}
		s.claims++
		it.state, it.claim, it.worker = "claimed", s.claims, req.Worker
		raw, err := json.Marshal(it.Item)
		if err != nil {
			return err
		}
		out.Items = append(out.Items, queue.Claimed{ID: queue.ID{Shard: k, Seq: uint64(seq)}, Claim: it.claim, Item: raw})
	}
	return nil
}

// left counts unfinished items.
func (s *shard) left() (n int) {
	for _, it := range s.items {
		if it.state == "ready" || it.state == "claimed" {
			n++
		}
	}
	return n
}

func (s *shard) find(id queue.ID) *item {
	if id.Seq < uint64(len(s.items)) {
		return s.items[id.Seq]
	}
	return nil
}

// Ack ends attempts.
func (b *Broker) Ack(_ context.Context, name string, k int, acks []queue.Ack) (out []queue.AckResult, err error) {
	err = b.on(name, k, func(s *shard) error {
		for _, a := range acks {
			it := s.find(a.ID)
			r := queue.AckResult{ID: a.ID, Verdict: queue.Accepted}
			switch {
			case it == nil:
				r.Verdict, r.Error = queue.Unknown, "there is no such item"
			case it.state != "claimed" || it.claim != a.Claim:
				r.Verdict, r.Error = queue.Stale, `attempt is "over"`
			default:
				it.reason = a.Reason
				it.state = map[queue.Action]string{queue.Retry: "ready", queue.Release: "ready", queue.Reject: "dead"}[a.Action]
				if it.state == "" {
					it.state = "done"
				}
			}
			out = append(out, r)
		}
		return nil
	})
	return out, err
}

// Extend renews nothing.
func (b *Broker) Extend(_ context.Context, name string, e queue.Extend) (out queue.Extended, err error) {
	err = b.look(name, e.Shard, func(s *shard) error {
		for _, claim := range e.Claims {
			if !slices.ContainsFunc(s.items, func(it *item) bool { return it.claim == claim && it.state == "claimed" }) {
				out.Lost = append(out.Lost, claim)
			}
		}
		return nil
	})
	return out, err
}
