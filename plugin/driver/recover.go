package driver

import (
	"errors"
	"fmt"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

// RecoverTask takes up a task that an earlier plugin process started. It runs
// no hook: Nomad's client does not start before it has returned.
//
// It asks nobody over the network either: what a task has in a store is looked
// up when it is needed.
//
// A handle of the inner driver itself is taken up as well, without hooks, so
// that a plugin that replaces a built-in driver can take over its tasks.
func (d *Driver) RecoverTask(handle *drivers.TaskHandle) error {
	if handle == nil || handle.Config == nil {
		return errors.New("recover task: no handle")
	}
	if _, err := d.task(handle.Config.ID); err == nil {
		return nil
	}
	inner := handle.Copy()
	var state handleState
	if handle.Version >= handleVersion {
		if err := handle.GetDriverState(&state); err != nil {
			return fmt.Errorf("recover task %q: decode handle: %w", handle.Config.ID, err)
		}
		inner.Version, inner.DriverState = state.InnerVersion, state.InnerState
	}
	sp, err := parseSpec(state.Lifecycle)
	if err != nil {
		// Another version of the plugin accepted it. A task without hooks is
		// better than one that nobody can stop.
		sp = &spec{}
		d.logger.Error("lifecycle block of a recovered task is not understood; it goes on without", "task_id", handle.Config.ID, "error", err)
		d.emit(handle.Config, nil, "the lifecycle block is not understood by this version of the plugin and is ignored: %v", err)
	}
	if err := d.inner.RecoverTask(inner); err != nil {
		return err
	}
	t := d.newTask(inner.Config, sp, lifecycle.Running)
	if sp.managed {
		if err := t.journal.load(); err != nil {
			d.logger.Warn("journal unreadable; prestop hooks may run again", "task_id", handle.Config.ID, "error", err)
		}
		if err := t.journal.accepted(); err != nil {
			d.logger.Warn("journal not cleared", "task_id", handle.Config.ID, "error", err)
		}
		t.rejoin(state)
	}
	d.addTask(t)
	d.background.Go(t.watch)
	if sp.managed {
		t.settleIn()
	}
	return nil
}
