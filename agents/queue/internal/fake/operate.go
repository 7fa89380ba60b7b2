package fake

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

// Cancel ends items.
func (b *Broker) Cancel(_ context.Context, name string, k int, ids []queue.ID) (out []queue.AckResult, err error) {
	err = b.on(name, k, func(s *shard) error {
		for _, id := range ids {
			r := queue.AckResult{ID: id, Verdict: queue.Accepted}
			if it := s.find(id); it == nil {
				r.Verdict, r.Error = queue.Unknown, "there is no such item"
			} else {
				it.state = "cancelled"
			}
			out = append(out, r)
		}
		return nil
	})
	return out, err
}

// Purge cancels what is ready.
func (b *Broker) Purge(_ context.Context, name string, k int) (n int, err error) {
	err = b.on(name, k, func(s *shard) error {
		for _, it := range s.items {
			if it.state == "ready" {
				it.state = "cancelled"
				n++
			}
		}
		return nil
	})
	return n, err
}

// Set turns a switch.
func (b *Broker) Set(_ context.Context, name string, k int, f queue.Flag) error {
	return b.on(name, k, func(s *shard) error {
		switch f {
		case queue.Seal:
			s.sealed = true
		default:
			s.paused = f == queue.Pause
		}
		return nil
	})
}

// SetRecurring keeps one.
func (b *Broker) SetRecurring(_ context.Context, name string, k int, r queue.Recurring) error {
	return b.on(name, k, func(s *shard) error { s.recurring[r.Name] = r; return nil })
}

// DeleteRecurring drops one.
func (b *Broker) DeleteRecurring(_ context.Context, name string, k int, recurring string) error {
	return b.on(name, k, func(s *shard) error {
		if _, there := s.recurring[recurring]; !there {
			return &queue.FieldError{Field: "name", Problem: "there is none"}
		}
		delete(s.recurring, recurring)
		return nil
	})
}

// Recurring lists them. They are never due.
func (b *Broker) Recurring(_ context.Context, name string, k int) (out []queue.Schedule, err error) {
	err = b.look(name, k, func(s *shard) error {
		for _, name := range slices.Sorted(maps.Keys(s.recurring)) {
			out = append(out, queue.Schedule{Recurring: s.recurring[name]})
		}
		return nil
	})
	return out, err
}

// Dead lists dead letters.
func (b *Broker) Dead(_ context.Context, name string, k int, after uint64, most int) (out []queue.DeadLetter, err error) {
	err = b.look(name, k, func(s *shard) error {
		for seq, it := range s.items {
			if it.state != "dead" || uint64(seq) < after || len(out) == most {
				continue
			}
			raw, err := json.Marshal(it.Item)
			if err != nil {
				return err
			}
			out = append(out, queue.DeadLetter{
				ID: queue.ID{Shard: k, Seq: uint64(seq)}, Stage: queue.DefaultStage, Reason: it.reason, Failed: 1, Worker: it.worker,
				At: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), Item: raw,
			})
		}
		return nil
	})
	return out, err
}

// Redrive tries dead letters again.
func (b *Broker) Redrive(_ context.Context, name string, k int, ids []queue.ID) (n int, err error) {
	err = b.on(name, k, func(s *shard) error {
		var missing error
		for seq, it := range s.items {
			if it.state == "dead" && (ids == nil || slices.Contains(ids, queue.ID{Shard: k, Seq: uint64(seq)})) {
				it.state = "ready"
				n++
			}
		}
		if ids != nil && n < len(ids) {
			missing = fmt.Errorf("item: %w among the dead letters", queue.ErrUnknownItem)
		}
		return missing
	})
	return n, err
}

// Item tells about an item.
func (b *Broker) Item(_ context.Context, name string, id queue.ID) (out queue.ItemStatus, err error) {
	err = b.look(name, id.Shard, func(s *shard) error {
		it := s.find(id)
		if it == nil {
			return fmt.Errorf("item %s: %w", id, queue.ErrUnknownItem)
		}
		raw, err := json.Marshal(it.Item)
		out = queue.ItemStatus{ID: id, State: it.state, Stage: queue.DefaultStage, Claim: it.claim, Worker: it.worker, Item: raw}
		return err
	})
	return out, err
}

// Status tells about a shard.
func (b *Broker) Status(_ context.Context, name string, k int) (out queue.Status, err error) {
	err = b.look(name, k, func(s *shard) error {
		st := queue.StageStatus{Name: queue.DefaultStage}
		workers := map[string]int{}
		for _, it := range s.items {
			switch it.state {
			case "ready":
				st.Ready++
			case "claimed":
				st.InFlight++
				workers[it.worker]++
			case "done":
				st.Done++
			case "dead":
				st.Dead++
				out.Dead++
			case "cancelled":
				st.Cancelled++
			}
		}
		out.Queue, out.Paused, out.Sealed, out.Items = name, s.paused, s.sealed, s.left()
		out.Finished = s.sealed && out.Items == 0
		out.Enqueued = uint64(len(s.items))
		if out.Items > 0 {
			out.OldestMS = 1500
		}
		out.Stages = []queue.StageStatus{st}
		for _, w := range slices.Sorted(maps.Keys(workers)) {
			out.Workers = append(out.Workers, queue.WorkerState{Name: w, Stage: st.Name, Items: workers[w], LeaseMS: 15000})
		}
		return nil
	})
	return out, err
}

// Wait waits until nothing is left.
func (b *Broker) Wait(ctx context.Context, name string, k int, sealed bool) error {
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		reached := false
		if err := b.look(name, k, func(s *shard) error {
			reached = s.left() == 0 && (s.sealed || !sealed)
			return nil
		}); err != nil || reached {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
