package checkpoint

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
)

// retry calls fn until it succeeds, its error is permanent or ctx ends. The
// error is fn's last one, and says also why ctx has ended if it has.
func (c *Chain) retry(ctx context.Context, fn func() error) error {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		err := fn()
		if err == nil || permanent(err) {
			return err
		}
		if ended := c.pause(ctx, jitter(pause)); ended != nil {
			return fmt.Errorf("%w; the last error was: %w", ended, err)
		}
	}
}

// jitter is between half of d and d, so that tasks that have failed together do
// not try again together.
func jitter(d time.Duration) time.Duration {
	if d < 2 {
		return d
	}
	return d/2 + rand.N(d/2) //nolint:gosec // spreads load
}

// sleep returns nil after d, or sooner why ctx has ended.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
