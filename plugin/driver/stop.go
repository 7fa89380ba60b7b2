package driver

import (
	"context"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
	"github.com/nomad-patterns/nomad-patterns/plugin/reason"
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
	if t.spec.managed {
		t.accepted.Do(func() { // Nomad keeps the handle before it waits
			if err := t.journal.accepted(); err != nil {
				d.logger.Warn("journal not cleared", "alloc_id", t.cfg.AllocID, "task", t.cfg.Name, "error", err)
			}
		})
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
	if t.spec.managed && !ended(t.exited) && !t.left {
		ctx, cancel := context.WithDeadlineCause(d.ctx, deadline, errKillTimeout{timeout})
		t.takeLeave(ctx, deadline)
		t.left = d.ctx.Err() == nil // what the plugin's own end has cut is not done
		cancel()
		timeout = max(time.Until(deadline), min(timeout, StopOverrun))
	} else {
		t.machine.To(lifecycle.Stopping, &lifecycle.Stop{Reason: string(reason.Unknown), Deadline: deadline})
	}
	if err := d.inner.StopTask(id, timeout, signal); err != nil && !notFound(err) {
		return err
	}
	return nil
}

// takeLeave is all that a task does between being asked to stop and its signal:
// it learns why, waits for the tasks that it stops after, runs its prestop
// hooks and saves its state. t.stopping is held.
func (t *task) takeLeave(ctx context.Context, deadline time.Time) {
	stop, whole := t.why(ctx)
	stop.Deadline = deadline
	t.machine.To(lifecycle.Stopping, &stop)
	t.members.awaitTurn(ctx, stop, whole)

	saves := t.checkpoint != nil && !stop.Final
	hooks, cancel := ctx, context.CancelFunc(func() {})
	if saves { // hooks that take all the time must not cost the state
		reserve := min(t.spec.checkpoint.save.Timeout, time.Until(deadline)/2)
		hooks, cancel = context.WithDeadlineCause(ctx, deadline.Add(-reserve), errReserved{reserve})
	}
	_ = t.run(hooks, hook.Prestop) // only start hooks return errors
	cancel()
	if saves && !ended(t.exited) {
		t.machine.To(lifecycle.Saving, nil)
		t.saveAtStop(ctx, stop.Reason)
	}
}

// why asks Nomad why the task is stopped. What cannot be learnt within a
// second is unknown, unless the servers had said so before.
func (t *task) why(ctx context.Context) (stop lifecycle.Stop, whole bool) {
	s := t.d.around()
	v, err := s.nomad.Why(ctx, t.cfg.Namespace, t.cfg.AllocID, t.cfg.Name)
	if err != nil {
		t.d.logger.Warn("reason of a stop is not known", "alloc_id", t.cfg.AllocID, "task", t.cfg.Name, "error", err)
		if st, _ := t.machine.Status(); st.Stop != nil {
			return *st.Stop, true
		}
	}
	return stopOf(v), v.Whole
}

func stopOf(v reason.Verdict) lifecycle.Stop {
	return lifecycle.Stop{Reason: string(v.Reason), Final: v.Final, Detail: v.Detail}
}

// errKillTimeout says in a hook's outcome whose limit it was that cut it.
type errKillTimeout struct{ timeout time.Duration }

func (e errKillTimeout) Error() string {
	return "cut by the task's kill_timeout of " + e.timeout.String()
}

// errReserved says that prestop hooks were cut so that the state can be saved.
type errReserved struct{ reserve time.Duration }

func (e errReserved) Error() string {
	return "cut to leave " + e.reserve.Round(time.Millisecond).String() + " of the task's kill_timeout for its checkpoint"
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
	t.machine.To(lifecycle.Destroyed, nil)
	t.forget()
	if t.spec.managed {
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
