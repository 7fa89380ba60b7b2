package child

import (
	"fmt"
	"runtime"
	"sync"
	"time"
)

// supervise has a child running until the driver ends, and sends on first how
// the first start went; if that fails, it is the only one.
func (d *Driver) supervise(first chan<- error) {
	defer close(d.done)
	// A child is tied to the thread that has started it; see process.Start.
	// When this goroutine returns there is none any more.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	pause := d.limits.pauseMin
	for started := false; ; started = true {
		begin := time.Now()
		s, err := d.open()
		if err == nil {
			d.publish(s)
		}
		if !started {
			first <- err
			if err != nil {
				return
			}
		}
		switch {
		case err == nil:
			d.serve(s)
		case d.ctx.Err() == nil:
			d.logger.Error("driver plugin does not start", "error", err, "next_try_in", pause)
			d.update(func() { d.down = err })
		}
		if time.Since(begin) >= d.limits.steady {
			pause = d.limits.pauseMin
		}
		if !d.sleep(pause) {
			return
		}
		pause = min(2*pause, d.limits.pauseMax)
	}
}

// sleep reports whether the driver is still there after the pause.
func (d *Driver) sleep(pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-d.ctx.Done():
		return false
	}
}

// publish lets everybody use a new child.
func (d *Driver) publish(s *session) {
	var before string
	tasks := 0
	d.update(func() {
		if d.info != nil {
			before = d.info.PluginVersion
		}
		d.session, d.down, d.info = s, nil, s.info
		tasks = len(d.tasks)
	})
	log := d.logger.With("path", d.path, "pid", s.proc.pid(), "driver", s.info.Name, "version", s.info.PluginVersion)
	if before != "" {
		log.Info("driver plugin started again", "previous_version", before, "tasks_to_recover", tasks)
	} else {
		log.Info("driver plugin started")
	}
}

// serve recovers the tasks in a new child and returns when that has ended.
func (d *Driver) serve(s *session) {
	var recovery sync.WaitGroup
	recovery.Go(func() { d.recoverTasks(s) })
	select {
	case <-s.proc.done:
	case <-d.ctx.Done():
		s.close(d.limits.stop)
	}
	how := fmt.Errorf("it ended (%s) and is being started again", s.proc.state)
	if d.ctx.Err() == nil {
		d.logger.Error("driver plugin ended, starting it again", "path", d.path, "pid", s.proc.pid(), "state", s.proc.state)
	}
	d.update(func() { d.session, d.down = nil, how })
	close(s.gone)
	s.close(0)
	recovery.Wait()
}

// recoverTasks hands the child every task that another one had, one after the
// other, so that it is known which one a child does not survive. It goes on
// until the child ends, for the sake of a task whose start was answered just
// before its child ended.
func (d *Driver) recoverTasks(s *session) {
	var pending sync.WaitGroup
	defer pending.Wait()
	for {
		d.mu.Lock()
		changed := d.changed
		var next *task
		for _, t := range d.tasks {
			if t.home != s && t.lost == nil {
				next = t
				break
			}
		}
		d.mu.Unlock()
		if next == nil {
			select {
			case <-changed:
				continue
			case <-s.gone:
				return
			}
		}
		answer := make(chan error, 1)
		pending.Go(func() { answer <- s.driver.RecoverTask(next.handle.Copy()) })
		if !d.recovered(s, next, answer) {
			return
		}
	}
}

// recovered waits for the child's answer about one task and reports whether
// the child is still there.
func (d *Driver) recovered(s *session, t *task, answer <-chan error) bool {
	limit := time.NewTimer(d.limits.recovery)
	defer limit.Stop()
	var err error
	select {
	case err = <-answer:
	case <-s.gone:
		d.crashed(t, s)
		return false
	case <-limit.C:
		// Whatever it answers later: the task's waiters have been told by then,
		// and Nomad will destroy it.
		err = fmt.Errorf("no answer within %s", d.limits.recovery)
	}
	switch {
	case err == nil:
		d.update(func() { t.home, t.crashes = s, 0 })
	case d.died(s, err):
		d.crashed(t, s)
		return false
	default:
		d.lose(t, plain(err))
	}
	return true
}

// crashed notes that a child has ended while it recovered t.
func (d *Driver) crashed(t *task, s *session) {
	if d.ctx.Err() != nil {
		return // it was ended, whatever it did
	}
	d.mu.Lock()
	t.crashes++
	crashes := t.crashes
	d.mu.Unlock()
	if crashes >= maxCrashes {
		d.lose(t, fmt.Errorf("it ended %d times over this, last time with %s", crashes, s.proc.state))
	}
}

func (d *Driver) lose(t *task, err error) {
	d.logger.Error("driver plugin cannot recover a task", "path", d.path, "task_id", t.handle.Config.ID, "error", err)
	d.update(func() { t.lost = &lostError{err} })
}
