package files

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// maxSweep bounds what one sweep looks at.
	maxSweep = 1000
	// runAge is how old the directory of an attempt at work has to be to be looked at. Its
	// worker makes it look new whenever it sweeps, so that others do not ask about it.
	runAge = time.Minute
)

// Sweep says what is to be swept.
type Sweep struct {
	// Item asks the broker. The error is queue.ErrUnknownItem, wrapped or not, if it does
	// not know the item any more.
	Item func(ctx context.Context, id queue.ID) (queue.ItemStatus, error)
	// Mine are attempts that this worker is busy with.
	Mine func(id queue.ID, claim uint64) bool
	// Age is how old what an attempt has left has to be: what is younger is somebody's
	// business.
	Age time.Duration
	// Now is the time. Default: time.Now.
	Now func() time.Time
}

// Swept is what a sweep has done.
type Swept struct {
	Published, Removed int
	// Unsure are attempts that the broker has forgotten and that may be published or not.
	Unsure []string
}

// Sweep finishes what workers have left that died: it publishes outputs whose acks were
// accepted, and removes others. An error about one of them does not keep it from the
// next.
func (f *Files) Sweep(ctx context.Context, s Sweep) (Swept, error) {
	var done Swept
	if f.place == nil {
		return done, nil
	}
	all, err := f.place.list(ctx)
	if err != nil {
		return done, err
	}
	highest := map[queue.ID]uint64{}
	for _, k := range all {
		if !k.run {
			highest[k.key.id] = max(highest[k.key.id], k.key.claim)
		}
	}
	now := time.Now()
	if s.Now != nil {
		now = s.Now()
	}
	var errs []error
	for _, k := range all {
		if k.run && s.Mine(k.key.id, k.key.claim) {
			if err := f.place.touchRun(k.key); err != nil {
				errs = append(errs, fmt.Errorf("attempt %s: %w", k.key, err))
			}
		}
	}
	looked := 0
	for _, k := range all {
		age := s.Age
		if k.run {
			age = max(age, runAge)
		}
		if s.Mine(k.key.id, k.key.claim) || now.Sub(k.since) < age {
			continue
		}
		if looked++; looked > maxSweep || ctx.Err() != nil {
			break
		}
		if err := f.sweepOne(ctx, s, k, highest[k.key.id], &done); err != nil {
			errs = append(errs, fmt.Errorf("attempt %s: %w", k.key, err))
		}
	}
	return done, errors.Join(errs...)
}

func (f *Files) sweepOne(ctx context.Context, s Sweep, k kept, highest uint64, done *Swept) error {
	st, err := s.Item(ctx, k.key.id)
	unknown := errors.Is(err, queue.ErrUnknownItem)
	if err != nil && !unknown {
		return err
	}
	last := !unknown && st.Claim == k.key.claim
	switch {
	case last && (st.State == "claimed" || st.State == "ready"):
		return nil // it can still be accepted
	case k.run: // its worker is dead, or will hear that it is stale
	case last && (st.State == "done" || st.State == "held") && st.Output != "":
		done.Published++
		return f.place.publish(ctx, k.key)
	case unknown && k.key.claim == highest:
		found, err := f.place.find(ctx, k.key)
		switch {
		case err != nil:
			return err
		case found == free:
			done.Published++
			return f.place.publish(ctx, k.key)
		case found == taken:
			done.Unsure = append(done.Unsure, k.key.String())
			return nil
		}
	}
	done.Removed++
	if k.run {
		return f.place.removeRun(k.key)
	}
	return f.place.remove(ctx, k.key)
}
