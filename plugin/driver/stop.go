package driver

import (
	"context"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

// StopOverrun is the most by which prestop hooks may make a stop longer than
// the task's kill_timeout: hooks that have used all of it still leave the
// process this long to end by its signal.
const StopOverrun = 2 * time.Second

// WaitTask implements drivers.DriverPlugin. The channel gets exactly one
// result, after the poststop hooks, and is never closed without one: that would
// crash Nomad's agent.
func (d *Driver) WaitTask(ctx context.Context, id string) (<-chan *drivers.ExitResult, error) {
	t, err := d.task(id)
	if err != nil {
		return nil, err
	}
	ch := make(chan *drivers.ExitResult, 1)
	go func() {
		select {
		case <-t.done:
			ch <- t.result.Copy()
			close(ch)
		case <-ctx.Done(): // nobody listens any more
		}
	}()
	return ch, nil
}

// StopTask runs the prestop hooks within timeout and gives what is left of it,
// but at least [StopOverrun], to the inner driver's stop. It returns nil for a
// task that is unknown or has ended: over gRPC Nomad cannot tell such an error
// from others and would try again for minutes.
//
// Nomad may call it twice at once for one task, and again after an error or a
// recovery. The calls follow each other, and hooks that have ended do not run
// again.
func (d *Driver) StopTask(id string, timeout time.Duration, signal string) error {
	deadline := time.Now().Add(timeout)
	t, err := d.task(id)
	if err != nil {
		d.logger.Debug("stop of a task that is not there", "task_id", id)
		return nil
	}
	t.stopping.Lock()
	defer t.stopping.Unlock()
	t.machine.To(lifecycle.Stopping)

	if len(t.hooks[hook.Prestop]) > 0 && !ended(t.exited) {
		ctx, cancel := context.WithDeadlineCause(d.ctx, deadline, errKillTimeout{timeout})
		_ = t.run(ctx, hook.Prestop) // only start hooks return errors
		cancel()
		timeout = max(time.Until(deadline), min(timeout, StopOverrun))
	}
	if err := d.inner.StopTask(id, timeout, signal); err != nil && !notFound(err) {
		return err
	}
	return nil
}

// errKillTimeout says in a hook's outcome whose limit it was that cut it.
type errKillTimeout struct{ timeout time.Duration }

func (e errKillTimeout) Error() string {
	return "cut by the task's kill_timeout of " + e.timeout.String()
}

// DestroyTask implements drivers.DriverPlugin. Like StopTask it returns nil for
// a task that is not there.
func (d *Driver) DestroyTask(id string, force bool) error {
	t, err := d.task(id)
	if err != nil {
		return nil
	}
	if err := d.inner.DestroyTask(id, force); err != nil && !notFound(err) {
		return err
	}
	t.machine.To(lifecycle.Destroyed)
	d.removeTask(t)
	if len(t.hooks) > 0 {
		if err := t.journal.answered(); err != nil {
			d.logger.Warn("journal not cleared", "alloc_id", t.cfg.AllocID, "task", t.cfg.Name, "error", err)
		}
	}
	return nil
}

func ended(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
