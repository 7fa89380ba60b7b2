package child

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

const stopSignal = syscall.SIGSTOP

// A child that ends takes no task with it.
func TestCrash(t *testing.T) {
	b := newBinary(t, "driver")
	d, log := b.start(t, testLimits)
	must.NoError(t, setConfig(t, d, "word"))
	startTask(t, d, "one", nil)
	startTask(t, d, "two", nil)
	startTask(t, d, "gone", nil)
	must.NoError(t, d.DestroyTask("gone", true))
	one, two := waitTask(t, d, "one"), waitTask(t, d, "two")

	d.crash(t)
	must.NoError(t, d.StopTask("one", time.Second, "SIGTERM")) // in the gap
	must.Eq(t, 143, receive(t, "result", one).ExitCode)
	d.crash(t)
	b.finish(t, "two", 5)
	r := receive(t, "result", two)
	must.NoError(t, r.Err)
	must.Eq(t, 5, r.ExitCode)

	must.Eq(t, []string{"config word v0.1.0", "config word v0.1.0", "config word v0.1.0"}, b.calls(t, "config"))
	must.SliceEmpty(t, b.calls(t, "recover gone"))
	must.SliceLen(t, 2, b.calls(t, "recover two"))
	must.StrContains(t, log.String(), "driver plugin started again")
	must.StrContains(t, log.String(), "signal: killed")
}

// The child ends while it is asked. What Nomad sees of that is nothing.
func TestCrashDuring(t *testing.T) {
	cases := map[string]struct {
		die string
		do  func(*Driver) error
	}{
		"stop":    {"stop", func(d *Driver) error { return d.StopTask("t", time.Second, "") }},
		"destroy": {"destroy", func(d *Driver) error { return d.DestroyTask("t", true) }},
		"inspect": {"inspect", func(d *Driver) error { _, err := d.InspectTask("t"); return err }},
		"wait":    {"wait", func(d *Driver) error { return d.StopTask("t", time.Second, "") }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBinary(t, "driver")
			d, _ := b.start(t, testLimits)
			startTask(t, d, "t", map[string]string{"die": c.die})
			ch := waitTask(t, d, "t")
			if c.die == "wait" {
				eventually(t, "recovery", func() bool { return len(b.calls(t, "recover t")) > 0 })
			}
			must.NoError(t, c.do(d))
			must.SliceLen(t, 1, b.calls(t, "recover t"))
			if c.die == "inspect" {
				b.finish(t, "t", 0)
			}
			r := receive(t, "result", ch)
			if c.die == "destroy" && r.Err != nil {
				// Whoever waited has asked the new child too late.
				must.ErrorContains(t, r.Err, "how it ended is not known")
				return
			}
			must.NoError(t, r.Err)
		})
	}
}

// A start is asked for once more, whether it had begun or not, and not a third
// time.
func TestCrashInStart(t *testing.T) {
	for _, where := range []string{"start", "started"} {
		t.Run(where, func(t *testing.T) {
			b := newBinary(t, "driver")
			d, _ := b.start(t, testLimits)
			startTask(t, d, "t", map[string]string{"die": where})
			must.SliceLen(t, 2, b.calls(t, "start t"))
			must.SliceEmpty(t, b.calls(t, "recover"))
			must.NoError(t, d.StopTask("t", time.Second, ""))
		})
	}
	t.Run("again and again", func(t *testing.T) {
		b := newBinary(t, "driver")
		d, _ := b.start(t, testLimits)
		cfg := newTask("t", map[string]string{"die": "start"})
		f := &fake{dir: b.dir}
		done := make(chan error, 1)
		go func() { _, _, err := d.StartTask(cfg); done <- err }()
		eventually(t, "first crash", func() bool {
			return os.Remove(f.file("t")+".died") == nil // it may die again
		})
		err := receive(t, "answer", done)
		must.ErrorContains(t, err, "is not available: it ended (signal: killed) over this call")
		must.True(t, structs.IsRecoverable(err))
		must.SliceLen(t, 2, b.calls(t, "start t"))
	})
}

func TestCrashInExec(t *testing.T) {
	b := newBinary(t, "driver")
	d, _ := b.start(t, testLimits)
	startTask(t, d, "t", map[string]string{"die": "exec"})
	_, err := d.ExecTask("t", []string{"count"}, time.Second)
	must.ErrorContains(t, err, b.path)
	must.SliceLen(t, 1, b.calls(t, "exec t")) // it may have been done
	_, err = d.ExecTask("t", []string{"count"}, time.Second)
	must.NoError(t, err)
}

func TestLost(t *testing.T) {
	cases := map[string]struct {
		env  map[string]string
		want string
	}{
		"refused":            {map[string]string{"unrecoverable": "yes"}, "could not recover the task when it was started again: no such executor"},
		"hangs":              {map[string]string{"hang": "yes"}, "no answer within"},
		"crashes each child": {map[string]string{"die": "recover"}, "it ended 5 times over this"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBinary(t, "driver")
			limits := testLimits
			if name == "hangs" {
				limits.recovery = 200 * time.Millisecond
			}
			d, _ := b.start(t, limits)
			startTask(t, d, "bad", c.env)
			startTask(t, d, "good", nil)
			bad, good := waitTask(t, d, "bad"), waitTask(t, d, "good")
			d.crash(t)
			r := receive(t, "result", bad)
			must.ErrorContains(t, r.Err, c.want)
			must.Eq(t, -1, r.ExitCode)
			must.ErrorIs(t, receive(t, "second result", waitTask(t, d, "bad")).Err, drivers.ErrTaskNotFound)
			must.ErrorIs(t, d.StopTask("bad", time.Second, ""), drivers.ErrTaskNotFound)
			must.ErrorIs(t, d.DestroyTask("bad", true), drivers.ErrTaskNotFound)
			must.ErrorIs(t, receive(t, "third result", waitTask(t, d, "bad")).Err, drivers.ErrTaskNotFound)

			must.NoError(t, d.StopTask("good", time.Second, ""))
			must.Eq(t, 143, receive(t, "result", good).ExitCode)
			// It is not tried again with every child.
			recovered := len(b.calls(t, "recover bad"))
			d.crash(t)
			_, err := d.InspectTask("good")
			must.NoError(t, err)
			must.Eq(t, recovered, len(b.calls(t, "recover bad")))
		})
	}
}

// A task that Nomad hands over again after it was lost is one again.
func TestRecoveredByNomad(t *testing.T) {
	b := newBinary(t, "driver")
	d, _ := b.start(t, testLimits)
	h := startTask(t, d, "t", map[string]string{"unrecoverable": "yes"})
	ch := waitTask(t, d, "t")
	d.crash(t)
	must.Error(t, receive(t, "result", ch).Err)
	h.Config.Env = nil
	must.NoError(t, d.RecoverTask(h))
	ch = waitTask(t, d, "t")
	d.crash(t)
	b.finish(t, "t", 3)
	must.Eq(t, 3, receive(t, "result", ch).ExitCode)
}

func TestStreamsGoOn(t *testing.T) {
	b := newBinary(t, "driver")
	d, _ := b.start(t, testLimits)
	fps, err := d.Fingerprint(t.Context())
	must.NoError(t, err)
	events, err := d.TaskEvents(t.Context())
	must.NoError(t, err)
	healthy := func(f *drivers.Fingerprint) bool { return f.Health == drivers.HealthStateHealthy }
	f := until(t, "health", fps, healthy)
	must.MapContainsKey(t, f.Attributes, "driver.fake")
	must.Eq(t, "1.0.0", f.Attributes["driver.fake.plugin.version"].GoString())
	must.MapNotContainsKey(t, f.Attributes, "driver.fake.plugin.replaced")
	startTask(t, d, "t", nil)
	until(t, "event", events, func(ev *drivers.TaskEvent) bool { return ev.Message == "started" })
	stats, err := d.TaskStats(t.Context(), "t", time.Second)
	must.NoError(t, err)
	receive(t, "statistics", stats)

	d.crash(t)
	for range stats {
		continue // they end
	}
	f = until(t, "ill health", fps, func(f *drivers.Fingerprint) bool { return f.Health == drivers.HealthStateUnhealthy })
	must.StrContains(t, f.HealthDescription, "it ended (signal: killed) and is being started again")
	must.StrContains(t, f.HealthDescription, b.path)
	must.MapContainsKey(t, f.Attributes, "driver.fake")
	must.NoError(t, f.Err)
	until(t, "health", fps, healthy)
	until(t, "event", events, func(ev *drivers.TaskEvent) bool {
		must.NoError(t, ev.Err)
		return ev.Message == "recovered"
	})
	stats, err = d.TaskStats(t.Context(), "t", time.Second)
	must.NoError(t, err)
	receive(t, "statistics", stats)

	// The driver's own errors are reports, and the stream goes on after them.
	sick := filepath.Join(b.dir, "sick")
	must.NoError(t, os.WriteFile(sick, nil, 0o600))
	f = until(t, "error", fps, func(f *drivers.Fingerprint) bool { return f.Err != nil })
	must.EqError(t, f.Err, "sick")
	must.NoError(t, os.Remove(sick))
	until(t, "health", fps, healthy)
}

// Nothing comes up any more: calls end after a while, and what waits goes on
// waiting, until the binary is repaired.
func TestDoesNotComeUp(t *testing.T) {
	b := newBinary(t, "driver")
	limits := testLimits
	limits.gap = 100 * time.Millisecond
	d, log := b.start(t, limits)
	startTask(t, d, "t", nil)
	ch := waitTask(t, d, "t")
	putScript(t, b.path, "#!/bin/sh\necho broken >&2\nexit 1\n")
	d.crash(t)
	eventually(t, "failed start", func() bool { return strings.Contains(log.String(), "driver plugin does not start") })

	err := d.StopTask("t", time.Second, "")
	must.ErrorContains(t, err, "is not available")
	must.ErrorContains(t, err, "broken")
	_, _, err = d.StartTask(newTask("u", nil))
	must.True(t, structs.IsRecoverable(err))
	info, err := d.PluginInfo()
	must.NoError(t, err)
	must.Eq(t, "fake", info.Name)
	fps, err := d.Fingerprint(t.Context())
	must.NoError(t, err)
	f := receive(t, "fingerprint", fps)
	must.Eq(t, drivers.HealthStateUnhealthy, f.Health)
	must.StrContains(t, f.HealthDescription, "broken")
	select {
	case r := <-ch:
		t.Fatalf("task has ended: %v", r)
	default:
	}

	b.write(t, "driver", "1.0.0", "fake")
	until(t, "health", fps, func(f *drivers.Fingerprint) bool { return f.Health == drivers.HealthStateHealthy })
	b.finish(t, "t", 0)
	must.True(t, receive(t, "result", ch).Successful())
}

func TestUpgrade(t *testing.T) {
	b := newBinary(t, "driver")
	d, log := b.start(t, testLimits)
	startTask(t, d, "t", nil)
	ch := waitTask(t, d, "t")
	fps, err := d.Fingerprint(t.Context())
	must.NoError(t, err)

	b.write(t, "driver", "2.0.0", "fake")
	f := until(t, "notice", fps, func(f *drivers.Fingerprint) bool { return f.Attributes["driver.fake.plugin.replaced"] != nil })
	must.Eq(t, "1.0.0", f.Attributes["driver.fake.plugin.version"].GoString())
	must.StrContains(t, log.String(), "the driver plugin's file was replaced")
	must.NoError(t, syscall.Kill(d.child(t).proc.pid(), syscall.SIGTERM)) // as an operator does
	f = until(t, "upgrade", fps, func(f *drivers.Fingerprint) bool {
		v := f.Attributes["driver.fake.plugin.version"]
		return v != nil && v.GoString() == "2.0.0"
	})
	must.MapNotContainsKey(t, f.Attributes, "driver.fake.plugin.replaced")
	info, err := d.PluginInfo()
	must.NoError(t, err)
	must.Eq(t, "2.0.0", info.PluginVersion)
	must.StrContains(t, log.String(), "version=2.0.0 previous_version=1.0.0")

	// The driver's name is Nomad's; it cannot change under it.
	b.write(t, "driver", "3.0.0", "other")
	d.crash(t)
	eventually(t, "refusal", func() bool { return strings.Contains(log.String(), `has to stay \"fake\"`) })
	b.write(t, "driver", "3.0.1", "fake")
	must.NoError(t, d.StopTask("t", time.Second, ""))
	must.Eq(t, 143, receive(t, "result", ch).ExitCode)
}

// The child is killed at random moments while tasks come and go. Each task
// ends as it is told to, and none is forgotten.
func TestStorm(t *testing.T) {
	b := newBinary(t, "driver")
	d, _ := b.start(t, testLimits)
	must.NoError(t, setConfig(t, d, "word"))
	stop := make(chan struct{})
	var killer, tasks sync.WaitGroup
	kills := 0
	killer.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(200+rand.IntN(300)) * time.Millisecond):
			}
			s, err := d.await(t.Context(), "", 0)
			if err != nil {
				return
			}
			s.proc.kill()
			kills++
		}
	})
	failed := make(chan error, 4)
	for worker := range 4 {
		tasks.Go(func() { failed <- life(t, d, b, worker) })
	}
	for range 4 {
		must.NoError(t, receive(t, "tasks", failed))
	}
	close(stop)
	tasks.Wait()
	killer.Wait()
	must.Positive(t, kills)
	must.MapEmpty(t, d.tasks)
	t.Logf("%d children were killed", kills)
}

// life runs tasks one after the other.
func life(t *testing.T, d *Driver, b *binary, worker int) error {
	for i := range 16 {
		id := fmt.Sprintf("%d-%d", worker, i)
		if _, _, err := d.StartTask(newTask(id, nil)); err != nil {
			// Two children have ended over one start.
			if structs.IsRecoverable(err) {
				continue
			}
			return fmt.Errorf("start %s: %w", id, err)
		}
		ch, err := d.WaitTask(t.Context(), id)
		if err != nil {
			return err
		}
		if _, err := d.InspectTask(id); err != nil {
			return fmt.Errorf("inspect %s: %w", id, err)
		}
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond) // of the task's life
		if err := d.StopTask(id, time.Second, "SIGTERM"); err != nil {
			return fmt.Errorf("stop %s: %w", id, err)
		}
		if r := <-ch; r == nil || r.Err != nil || r.ExitCode != 143 {
			return fmt.Errorf("task %s ended with %+v", id, r)
		}
		// A destroy that was done but not answered is done when it is repeated,
		// for the next child has recovered the task.
		if err := d.DestroyTask(id, false); err != nil {
			return fmt.Errorf("destroy %s: %w", id, err)
		}
	}
	return nil
}
