package pool

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/files"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// sweepAge is how long a worker has to publish its output before others do.
const sweepAge = 5 * time.Second

// sweeper sweeps now and then.
func (p *Pool) sweeper(ctx context.Context) {
	for age := time.Duration(0); ; age = sweepAge {
		done, err := SweepOnce(ctx, p.cfg.Broker, p.cfg.Queue, p.cfg.Files, age, p.leases.has)
		p.metrics.repairs(done)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			p.log.Warn("look for outputs of dead workers", "error", err)
		case done.Published+done.Removed > 0:
			p.log.Info("finished what workers have left that are gone", "published", done.Published, "removed", done.Removed)
		}
		for _, key := range done.Unsure {
			p.log.Warn("an output was kept aside: the broker has forgotten its item, and there is another one of its name", "attempt", key)
		}
		if !sleep(ctx, p.cfg.SweepEvery) {
			return
		}
	}
}

// SweepOnce is files.Sweep with what the broker knows. Mine may be nil.
func SweepOnce(ctx context.Context, b Broker, name string, f *files.Files, age time.Duration, mine func(queue.ID, uint64) bool) (files.Swept, error) {
	// If there is no such queue, that an item is not known says nothing.
	if _, err := b.Status(ctx, name); err != nil {
		return files.Swept{}, fmt.Errorf("queue %q: %w", name, err)
	}
	if mine == nil {
		mine = func(queue.ID, uint64) bool { return false }
	}
	return f.Sweep(ctx, files.Sweep{
		Mine: mine, Age: age,
		Item: func(ctx context.Context, id queue.ID) (queue.ItemStatus, error) {
			st, err := b.Item(ctx, name, id)
			var no *queue.RefusedError
			if errors.As(err, &no) && no.Status == http.StatusNotFound {
				err = fmt.Errorf("%w: %w", queue.ErrUnknownItem, err)
			}
			return st, err
		},
	})
}
