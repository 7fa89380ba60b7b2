package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Enqueue adds items to a shard, all or none, and returns when they are stored. The
// error is a *FieldError that names the item, ErrUnknownQueue, a *NotLeaderError,
// ErrSealed, ErrFull, ErrTooLarge or ErrBusy, and in these cases nothing was added; or
// ErrNotLeader and others, when that is not known: then add them again, with keys.
func (b *Broker) Enqueue(ctx context.Context, queue string, shard int, items []Item) ([]Enqueued, error) {
	ready := make([]prepared, len(items))
	for i := range items {
		var err error
		if ready[i], err = prepare(items[i]); err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
	}
	t, err := b.term(queue, shard)
	if err != nil {
		return nil, err
	}
	var out []Enqueued
	var refused error
	err = t.do(ctx, 0, func(s *shardState) outcome {
		var ok bool
		if out, ok, refused = s.enqueue(ready); !ok {
			return noRoom
		}
		return done
	})
	return out, cmp.Or(refused, err)
}

// Claim hands out items of those shards of a queue that this broker leads. If there are
// none it waits as long as the request says. What it returns is stored.
func (b *Broker) Claim(ctx context.Context, queue string, req ClaimRequest) (ClaimResponse, error) {
	var none ClaimResponse
	setDefault(&req.Max, 1)
	if err := errors.Join(
		checkWorker(req.Worker),
		within("max", req.Max, 1, MaxBatch),
		within("wait", req.Wait, 0, Duration(MaxWait)),
	); err != nil {
		return none, err
	}
	q, err := b.queue(queue)
	if err != nil {
		return none, err
	}
	var terms []*term
	var away error
	for k := range q.shards {
		t, err := b.term(queue, k)
		if err != nil {
			away = err
			continue
		}
		terms = append(terms, t)
	}
	if len(terms) == 0 {
		return none, away
	}
	// Another one each time, so that none is forgotten.
	n := int(b.turn.Add(1) % uint64(len(terms))) //nolint:gosec // below MaxShards
	terms = append(terms[n:len(terms):len(terms)], terms[:n]...)
	if len(terms) == 1 {
		return terms[0].claim(ctx, req, away == nil, nil)
	}
	finished := away == nil
	for _, t := range terms {
		res, err := t.claim(ctx, ClaimRequest{Worker: req.Worker, Stage: req.Stage, Max: req.Max}, true, nil)
		if err != nil || len(res.Items) > 0 {
			return res, err
		}
		finished = finished && res.Finished
	}
	if req.Wait == 0 || finished {
		return ClaimResponse{Items: []Claimed{}, Finished: finished}, nil
	}
	return claimAny(ctx, terms, req)
}

// claimAny waits for several shards at once; the first that has something gives it.
func claimAny(ctx context.Context, terms []*term, req ClaimRequest) (ClaimResponse, error) {
	type result struct {
		res ClaimResponse
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var taken atomic.Bool
	results := make(chan result, len(terms))
	for _, t := range terms {
		go func() {
			res, err := t.claim(ctx, req, false, &taken)
			results <- result{res, err}
		}()
	}
	var out result
	for range terms {
		r := <-results
		if len(r.res.Items) > 0 {
			out = r
			cancel()
		} else if out.res.Items == nil {
			out = r
		}
	}
	return out.res, out.err
}

// claim is Claim for one shard. If taken is given it is set by whoever takes items, and
// whoever finds it set takes none.
func (t *term) claim(ctx context.Context, req ClaimRequest, finish bool, taken *atomic.Bool) (ClaimResponse, error) {
	waits, cancel := ctx, context.CancelFunc(func() {})
	if req.Wait > 0 {
		waits, cancel = context.WithTimeout(ctx, time.Duration(req.Wait))
	}
	defer cancel()
	res := ClaimResponse{Items: []Claimed{}}
	var refused error
	stage, err := t.stageOf(ctx, req.Stage)
	if err != nil {
		return res, err
	}
	err = t.do(waits, stage, func(s *shardState) outcome {
		st := &s.stages[stage]
		if taken != nil && taken.Load() {
			return done
		}
		if !s.room(2, itemState+64<<10) {
			return noRoom
		}
		if st.nready > 0 && (taken == nil || taken.CompareAndSwap(false, true)) {
			res.Items = append(res.Items, s.claim(stage, req.Worker, req.Max)...)
			if len(res.Items) == 0 && taken != nil {
				taken.Store(false)
			}
		}
		if len(res.Items) > 0 {
			res.Lease, res.MaxRuntime = st.cfg.Lease, st.cfg.MaxRuntime
			return done
		}
		if finish && s.finished() {
			res.Finished = true
			return done
		}
		if req.Wait > 0 {
			return parked
		}
		return done
	})
	if err != nil && ctx.Err() == nil && waits.Err() != nil && !errors.Is(err, ErrNotLeader) {
		err = nil // it has waited long enough
	}
	if err != nil || refused != nil {
		return ClaimResponse{}, cmp.Or(refused, err)
	}
	return res, nil
}

// stageOf returns the place of a stage.
func (t *term) stageOf(ctx context.Context, name string) (stage int, err error) {
	if name == "" {
		return 0, nil
	}
	if e := t.do(ctx, 0, func(s *shardState) outcome { stage, err = s.stage(name); return done }); e != nil {
		return 0, e
	}
	return stage, err
}

func checkWorker(name string) error {
	if name == "" || len(name) > maxWorker || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
		return fieldErrorf("worker", "%q is not 1 to %d printable ASCII characters without blanks, quotes and backslashes", name, maxWorker)
	}
	return nil
}

// Ack ends attempts at items of one shard, and returns when that is stored. Each has a
// verdict of its own.
func (b *Broker) Ack(ctx context.Context, queue string, shard int, acks []Ack) ([]AckResult, error) {
	if err := within("acks", len(acks), 1, MaxBatch); err != nil {
		return nil, err
	}
	ready := make([]answer, len(acks))
	for i := range acks {
		if acks[i].ID.Shard != shard {
			return nil, fieldErrorf("id", "item %s is not of shard %d", acks[i].ID, shard)
		}
		var err error
		if ready[i], err = prepareAck(acks[i]); err != nil {
			return nil, fmt.Errorf("item %s: %w", acks[i].ID, err)
		}
	}
	t, err := b.term(queue, shard)
	if err != nil {
		return nil, err
	}
	out := make([]AckResult, 0, len(acks))
	err = t.do(ctx, 0, func(s *shardState) outcome {
		for len(out) < len(ready) {
			r, ok := s.ack(&ready[len(out)])
			if !ok {
				return noRoom
			}
			out = append(out, r)
		}
		return done
	})
	return out, err
}

// Extend renews leases in one shard.
func (b *Broker) Extend(ctx context.Context, queue string, e Extend) (Extended, error) {
	t, err := b.term(queue, e.Shard)
	if err != nil {
		return Extended{}, err
	}
	var out Extended
	err = t.do(ctx, 0, func(s *shardState) outcome { out = s.extend(e); return done })
	return out, err
}

// Cancel ends items of one shard that are not finished.
func (b *Broker) Cancel(ctx context.Context, queue string, shard int, ids []ID) ([]AckResult, error) {
	t, err := b.term(queue, shard)
	if err != nil {
		return nil, err
	}
	out := make([]AckResult, 0, len(ids))
	err = t.do(ctx, 0, func(s *shardState) outcome {
		for len(out) < len(ids) {
			r, ok := s.cancel(ids[len(out)].Seq)
			if !ok {
				return noRoom
			}
			out = append(out, r)
		}
		return done
	})
	return out, err
}

// Purge cancels all items of a shard that nobody works on, and returns how many.
func (b *Broker) Purge(ctx context.Context, queue string, shard int) (int, error) {
	t, err := b.term(queue, shard)
	if err != nil {
		return 0, err
	}
	n, at := 0, uint64(0)
	err = t.do(ctx, 0, func(s *shardState) outcome {
		for _, g := range s.segs {
			if g.end() <= at {
				continue
			}
			for i := range g.slots {
				seq := g.seq(i)
				if st := g.slots[i].state; seq < at || st != stateReady && st != stateDelayed {
					continue
				}
				if _, ok := s.cancel(seq); !ok {
					at = seq
					return noRoom
				}
				n++
			}
			at = g.end()
		}
		return done
	})
	return n, err
}

// Flag is a switch of a queue.
type Flag string

// The switches.
const (
	Pause  Flag = "pause"  // hand nothing out
	Resume Flag = "resume" // go on
	Seal   Flag = "seal"   // accept nothing more; for good
)

// Set turns a switch of a shard.
func (b *Broker) Set(ctx context.Context, queue string, shard int, f Flag) error {
	t, err := b.term(queue, shard)
	if err != nil {
		return err
	}
	return t.do(ctx, 0, func(s *shardState) outcome {
		s.change()
		switch f {
		case Pause:
			s.head.Paused = true
		case Resume:
			s.head.Paused = false
		case Seal:
			s.head.Sealed = true
		}
		return done
	})
}

// SetRecurring adds or changes an item that is enqueued again and again.
func (b *Broker) SetRecurring(ctx context.Context, queue string, shard int, r Recurring) error {
	ready, err := newRecurring(r, time.Time{})
	if err != nil {
		return err
	}
	return b.recurring(ctx, queue, shard, r.Name, ready)
}

// DeleteRecurring ends one.
func (b *Broker) DeleteRecurring(ctx context.Context, queue string, shard int, name string) error {
	return b.recurring(ctx, queue, shard, name, nil)
}

// Recurring lists what is enqueued again and again in a shard, in the order of the names.
func (b *Broker) Recurring(ctx context.Context, queue string, shard int) ([]Schedule, error) {
	t, err := b.term(queue, shard)
	if err != nil {
		return nil, err
	}
	out := []Schedule{}
	err = t.do(ctx, 0, func(s *shardState) outcome {
		for _, r := range s.recurs {
			out = append(out, Schedule{r.Recurring, r.Next})
		}
		return done
	})
	slices.SortFunc(out, func(a, b Schedule) int { return cmp.Compare(a.Name, b.Name) })
	return out, err
}

func (b *Broker) recurring(ctx context.Context, queue string, shard int, name string, r *recurring) error {
	t, err := b.term(queue, shard)
	if err != nil {
		return err
	}
	var refused error
	err = t.do(ctx, 0, func(s *shardState) outcome {
		if !s.room(2, 8<<10) {
			return noRoom
		}
		refused = s.setRecurring(name, r)
		return done
	})
	return cmp.Or(refused, err)
}

// Dead returns dead letters of a shard after a number, in the order of their numbers, up
// to so many.
func (b *Broker) Dead(ctx context.Context, queue string, shard int, after uint64, most int) ([]DeadLetter, error) {
	t, err := b.term(queue, shard)
	if err != nil {
		return nil, err
	}
	out := []DeadLetter{}
	err = t.do(ctx, 0, func(s *shardState) outcome {
		for seq, d := range s.dead {
			if seq >= after {
				out = append(out, *d)
			}
		}
		return done
	})
	slices.SortFunc(out, func(a, b DeadLetter) int { return cmp.Compare(a.ID.Seq, b.ID.Seq) })
	return out[:min(most, len(out))], err
}

// Redrive enqueues dead letters again, with new numbers: those that are named, or all.
func (b *Broker) Redrive(ctx context.Context, queue string, shard int, ids []ID) (int, error) {
	t, err := b.term(queue, shard)
	if err != nil {
		return 0, err
	}
	var seqs []uint64
	for _, id := range ids {
		seqs = append(seqs, id.Seq)
	}
	n, begun := 0, ids != nil
	var refused error
	err = t.do(ctx, 0, func(s *shardState) outcome {
		if !begun {
			begun = true
			for seq := range s.dead {
				seqs = append(seqs, seq)
			}
			slices.Sort(seqs)
		}
		for len(seqs) > 0 {
			_, ok, err := s.redrive(seqs[0])
			if !ok {
				return noRoom
			}
			if err != nil {
				refused = errors.Join(refused, err)
			} else {
				n++
			}
			seqs = seqs[1:]
		}
		return done
	})
	return n, cmp.Or(err, refused)
}

// Item tells about an item that is not finished, or was not long ago. The error can be
// ErrUnknownItem.
func (b *Broker) Item(ctx context.Context, queue string, id ID) (ItemStatus, error) {
	t, err := b.term(queue, id.Shard)
	if err != nil {
		return ItemStatus{}, err
	}
	var out ItemStatus
	known := false
	err = t.do(ctx, 0, func(s *shardState) outcome { out, known = s.itemStatus(id); return done })
	if err == nil && !known {
		err = fmt.Errorf("item %s: %w", id, ErrUnknownItem)
	}
	return out, err
}

// Status tells about a shard.
func (b *Broker) Status(ctx context.Context, queue string, shard int) (Status, error) {
	t, err := b.term(queue, shard)
	if err != nil {
		return Status{}, err
	}
	var out Status
	err = t.do(ctx, 0, func(s *shardState) outcome { out = s.status(); return done })
	return out, err
}

// Wait returns when nothing is left in a shard: no unfinished items, and with sealed
// also none that could still come.
func (b *Broker) Wait(ctx context.Context, queue string, shard int, sealed bool) error {
	t, err := b.term(queue, shard)
	if err != nil {
		return err
	}
	return t.do(ctx, -1, func(s *shardState) outcome {
		if s.items() > 0 || sealed && !s.head.Sealed {
			return parked
		}
		return done
	})
}
