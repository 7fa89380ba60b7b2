package child

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// minStop is the least that a stop which was interrupted by the child's end
// leaves to the task, unless it was to have less from the beginning.
const minStop = time.Second

// StartTask implements drivers.DriverPlugin. If the child ends over it, the
// next one is asked once; an error after that is recoverable.
func (d *Driver) StartTask(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	type answer struct {
		handle  *drivers.TaskHandle
		network *drivers.DriverNetwork
	}
	a, err := call(d, "", 2, func(s *session) (answer, error) {
		handle, network, err := s.driver.StartTask(cfg)
		if err != nil {
			return answer{}, err
		}
		if handle.Config == nil || handle.Config.ID == "" {
			handle.Config = cfg.Copy() // not every driver fills it in
		}
		d.keep(s, handle)
		return answer{handle, network}, nil
	})
	return a.handle, a.network, err
}

// RecoverTask implements drivers.DriverPlugin.
func (d *Driver) RecoverTask(handle *drivers.TaskHandle) error {
	if handle == nil || handle.Config == nil {
		return errors.New("recover task: no handle")
	}
	return d.do("", maxTries, func(s *session) error {
		if err := s.driver.RecoverTask(handle); err != nil {
			return err
		}
		d.keep(s, handle)
		return nil
	})
}

// keep remembers a task for the children that come after s.
func (d *Driver) keep(s *session, handle *drivers.TaskHandle) {
	t := &task{handle: handle.Copy(), home: s}
	d.update(func() { d.tasks[handle.Config.ID] = t })
}

// WaitTask implements drivers.DriverPlugin. The channel gets one result; it is
// closed without one only if ctx or the driver ends first. An ID that nobody
// knows is in the result.
func (d *Driver) WaitTask(ctx context.Context, id string) (<-chan *drivers.ExitResult, error) {
	out := make(chan *drivers.ExitResult, 1)
	err := d.stream(func() {
		defer close(out)
		if r := d.wait(ctx, id); r != nil {
			out <- r
		}
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (d *Driver) wait(ctx context.Context, id string) *drivers.ExitResult {
	for asked := false; ; asked = true {
		s, err := d.await(ctx, id, 0)
		var lost *lostError
		if errors.As(err, &lost) {
			return &drivers.ExitResult{ExitCode: -1, Err: lost}
		}
		if err != nil {
			return nil
		}
		r := &drivers.ExitResult{ExitCode: -1}
		ch, err := s.driver.WaitTask(ctx, id)
		if err != nil {
			r.Err = err
		} else if got := <-ch; got != nil { // at the latest with the end of the child or of ctx
			r = got
		} else {
			r.Err = drivers.ErrChannelClosed
		}
		if ctx.Err() != nil || d.ctx.Err() != nil {
			return nil
		}
		if r.Err != nil && d.died(s, r.Err) {
			continue
		}
		r.Err = plain(r.Err)
		if asked && errors.Is(r.Err, drivers.ErrTaskNotFound) {
			r.Err = errors.New("the task was destroyed while its driver plugin was being started again; how it ended is not known")
		}
		return r
	}
}

// StopTask implements drivers.DriverPlugin. In a gap between two children it
// waits for the task's recovery; what is left of timeout after that, but at
// least a second of it, is the task's.
func (d *Driver) StopTask(id string, timeout time.Duration, signal string) error {
	begin := time.Now()
	return d.do(id, maxTries, func(s *session) error {
		// In whole seconds: docker cuts off the rest of what it is given.
		spent := time.Since(begin).Truncate(time.Second)
		return s.driver.StopTask(id, max(timeout-spent, min(timeout, minStop)), signal)
	})
}

// DestroyTask implements drivers.DriverPlugin. The task is forgotten also if
// the child does not know it.
func (d *Driver) DestroyTask(id string, force bool) error {
	destroy := func(s *session) error { return s.driver.DestroyTask(id, force) }
	err := d.do(id, maxTries, destroy)
	var lost *lostError
	if errors.As(err, &lost) {
		// Nobody could recover it, but somebody may know it: a child that took
		// too long over it, or one whose recovery went half the way.
		err = d.do("", maxTries, destroy)
	}
	if err == nil || errors.Is(err, drivers.ErrTaskNotFound) {
		d.update(func() { delete(d.tasks, id) })
	}
	return err
}

// InspectTask implements drivers.DriverPlugin.
func (d *Driver) InspectTask(id string) (*drivers.TaskStatus, error) {
	return call(d, id, maxTries, func(s *session) (*drivers.TaskStatus, error) { return s.driver.InspectTask(id) })
}

// SignalTask implements drivers.DriverPlugin. It is not repeated if the child
// ends over it.
func (d *Driver) SignalTask(id, signal string) error {
	return d.do(id, 1, func(s *session) error { return s.driver.SignalTask(id, signal) })
}

// ExecTask implements drivers.DriverPlugin. It is not repeated if the child
// ends over it.
func (d *Driver) ExecTask(id string, command []string, timeout time.Duration) (*drivers.ExecTaskResult, error) {
	return call(d, id, 1, func(s *session) (*drivers.ExecTaskResult, error) {
		return s.driver.ExecTask(id, command, timeout)
	})
}

// ExecTaskStreamingRaw implements drivers.ExecTaskStreamingRawDriver. A child
// without exec says so.
func (d *Driver) ExecTaskStreamingRaw(ctx context.Context, id string, command []string, tty bool, stream drivers.ExecTaskStream) error {
	return d.do(id, 1, func(s *session) error {
		raw, ok := s.driver.(drivers.ExecTaskStreamingRawDriver)
		if !ok {
			return errors.New("the driver plugin does not support exec")
		}
		err := raw.ExecTaskStreamingRaw(ctx, id, command, tty, stream)
		if err != nil && ctx.Err() != nil {
			return ctx.Err() // the caller's own leaving says nothing about the child
		}
		return err
	})
}

// CreateNetwork implements drivers.DriverNetworkManager. A child that makes no
// networks says so; Nomad asks only those that say MustInitiateNetwork.
func (d *Driver) CreateNetwork(allocID string, req *drivers.NetworkCreateRequest) (*drivers.NetworkIsolationSpec, bool, error) {
	type answer struct {
		spec    *drivers.NetworkIsolationSpec
		created bool
	}
	if req == nil {
		req = &drivers.NetworkCreateRequest{}
	}
	a, err := call(d, "", maxTries, func(s *session) (answer, error) {
		m, ok := s.driver.(drivers.DriverNetworkManager)
		if !ok {
			return answer{}, errors.New("the driver plugin does not create networks")
		}
		spec, created, err := m.CreateNetwork(allocID, req)
		return answer{spec, created}, err
	})
	return a.spec, a.created, err
}

// DestroyNetwork implements drivers.DriverNetworkManager.
func (d *Driver) DestroyNetwork(allocID string, spec *drivers.NetworkIsolationSpec) error {
	return d.do("", maxTries, func(s *session) error {
		m, ok := s.driver.(drivers.DriverNetworkManager)
		if !ok {
			return errors.New("the driver plugin does not create networks")
		}
		return m.DestroyNetwork(allocID, spec)
	})
}
