package driver

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// Hooks that hang are cut by kill_timeout, and the process still gets time to
// end by its signal.
func TestStop_Timeouts(t *testing.T) {
	hanging := block(httpHook("prestop", "hang", "timeout = \"1h\""), httpHook("prestop", "after", ""))
	cases := map[string]struct {
		text     string
		timeout  time.Duration
		min, max time.Duration // of what the inner driver is given
	}{
		"hang, short kill_timeout": {hanging, 300 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond},
		"hang, kill_timeout above the overrun": {
			hanging, StopOverrun + 200*time.Millisecond, StopOverrun, StopOverrun,
		},
		"the hook leaves the rest": {
			block("prestop {\n sleep = \"200ms\"\n}\n"), time.Minute, time.Second, time.Minute - 200*time.Millisecond,
		},
		"no time at all": {hanging, 0, 0, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, tc.text)
			var got time.Duration
			stop := s.StopTaskF
			s.StopTaskF = func(id string, d time.Duration, signal string) error {
				got = d
				return stop(id, d, signal)
			}
			s.start(t)
			must.NoError(t, s.h.StopTask(s.cfg.ID, tc.timeout, "SIGINT"))
			must.Between(t, tc.min, got, tc.max)
			must.Eq(t, 1, s.count("stop SIGINT"))
		})
	}
}

func TestStop_FailingHookDoesNotPreventIt(t *testing.T) {
	s := newSetup(t, block(httpHook("prestop", "fail", ""), httpHook("prestop", "after", "")))
	s.start(t)
	must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, ""))
	must.Eq(t, []string{"start", "hook /fail", "hook /after", "stop "}, s.all())
}

// Nomad cannot tell an unknown task from other errors over gRPC, and would try
// again for minutes.
func TestStop_UnknownTask(t *testing.T) {
	s := newSetup(t, "")
	must.NoError(t, s.h.StopTask("never/was/here", time.Minute, "SIGINT"))
	must.NoError(t, s.h.DestroyTask("never/was/here", true))
	must.SliceEmpty(t, s.all())
	// Also one that only the inner driver has lost.
	s.start(t)
	must.NoError(t, s.destroy(s.cfg.ID, true))
	must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, "SIGINT"))
	must.NoError(t, s.h.DestroyTask(s.cfg.ID, true))
	s.forgotten(t)
}

func TestStop_InnerErrors(t *testing.T) {
	s := newSetup(t, block(httpHook("prestop", "prestop", "")))
	stop, destroy := s.StopTaskF, s.DestroyTaskF
	s.StopTaskF = func(string, time.Duration, string) error { return errors.New("engine is down") }
	s.DestroyTaskF = func(string, bool) error { return errors.New("still running") }
	events := collect(t, s)
	s.start(t)
	result := s.waitTask(t)
	must.ErrorContains(t, s.h.StopTask(s.cfg.ID, time.Minute, ""), "engine is down")
	must.ErrorContains(t, s.h.DestroyTask(s.cfg.ID, false), "still running")
	_, err := s.d.task(s.cfg.ID)
	must.NoError(t, err)

	// Nomad tries again. Hooks that have ended do not run again, and no second
	// event says so: Nomad keeps ten.
	s.StopTaskF, s.DestroyTaskF = stop, destroy
	must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, ""))
	wait(t, result)
	must.NoError(t, s.h.DestroyTask(s.cfg.ID, false))
	must.Eq(t, []string{"start", "hook /prestop", "stop ", "destroy force=false"}, s.all())
	s.forgotten(t)
	must.Eq(t, []string{"running", "stopping", "stopped"}, states(events()))
}

func TestStop_TwiceAtOnce(t *testing.T) {
	s := newSetup(t, block("prestop {\n sleep = \"100ms\"\n}\n", httpHook("prestop", "prestop", "")))
	s.start(t)
	result := s.waitTask(t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = s.h.StopTask(s.cfg.ID, time.Minute, "SIGINT") })
	}
	wg.Wait()
	for _, err := range errs {
		must.NoError(t, err)
	}
	must.Eq(t, 1, s.count("hook /prestop"))
	must.Eq(t, 143, wait(t, result).ExitCode)
}

// A process that has ended by itself gets no prestop hooks, but poststop.
func TestStop_ProcessHasEnded(t *testing.T) {
	s := newSetup(t, block(httpHook("prestop", "prestop", ""), httpHook("poststop", "poststop", "")))
	s.start(t)
	result := s.waitTask(t)
	s.only(t).finish(&drivers.ExitResult{ExitCode: 9})
	must.Eq(t, 9, wait(t, result).ExitCode)
	must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, ""))
	must.Eq(t, []string{"start", "hook /poststop", "stop "}, s.all())
}

// A process that ends during prestop ends the hook.
func TestStop_ProcessEndsDuringPrestop(t *testing.T) {
	s := newSetup(t, block(httpHook("prestop", "hang", "timeout = \"1h\"")))
	s.start(t)
	done := make(chan error, 1)
	go func() { done <- s.h.StopTask(s.cfg.ID, time.Hour, "") }()
	eventually(t, "prestop hook runs", func() bool { return s.count("hook /hang") == 1 })
	s.only(t).finish(&drivers.ExitResult{})
	must.NoError(t, receive(t, done))
}

// Every caller gets one result, whatever the inner driver does: Nomad's agent
// does not survive a wait without one.
func TestWait_OneResultForEveryCaller(t *testing.T) {
	cases := map[string]struct {
		end  func(*fakeTask)
		wait func(context.Context, string) (<-chan *drivers.ExitResult, error) // nil: the fake's own
		code int
		oom  bool
		err  string
	}{
		"exit code":  {end: func(ft *fakeTask) { ft.finish(&drivers.ExitResult{ExitCode: 7, OOMKilled: true}) }, code: 7, oom: true},
		"with error": {end: func(ft *fakeTask) { ft.finish(&drivers.ExitResult{ExitCode: -1, Err: errors.New("lost")}) }, code: -1, err: "lost"},
		"no result":  {end: func(ft *fakeTask) { ft.finish(nil) }, code: -1, err: "the driver is shutting down"},
		"inner error": {wait: func(context.Context, string) (<-chan *drivers.ExitResult, error) {
			return nil, errors.New("engine is down")
		}, code: -1, err: "engine is down"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, block(httpHook("poststop", "poststop", "")))
			if tc.wait != nil {
				s.WaitTaskF = tc.wait
			}
			s.start(t)
			early := make([]<-chan *drivers.ExitResult, 16)
			for i := range early {
				early[i] = s.waitTask(t)
			}
			if tc.end != nil {
				tc.end(s.only(t))
			}
			for _, ch := range append(early, s.waitTask(t), s.waitTask(t)) {
				r := wait(t, ch)
				must.Eq(t, tc.code, r.ExitCode)
				must.Eq(t, tc.oom, r.OOMKilled)
				if tc.err == "" {
					must.NoError(t, r.Err)
				} else {
					must.ErrorContains(t, r.Err, tc.err)
				}
				_, more := <-ch
				must.False(t, more)
			}
			must.Eq(t, 1, s.count("hook /poststop"))
		})
	}
}

// The result comes after the poststop hooks: a new start must not meet them.
func TestWait_ComesAfterPoststop(t *testing.T) {
	s := newSetup(t, block("poststop {\n sleep = \"100ms\"\n}\n", httpHook("poststop", "poststop", "")))
	s.start(t)
	result := s.waitTask(t)
	s.only(t).finish(&drivers.ExitResult{})
	wait(t, result)
	must.Eq(t, []string{"start", "hook /poststop"}, s.all())
}

func TestWait_UnknownTask(t *testing.T) {
	s := newSetup(t, "")
	_, err := s.d.WaitTask(t.Context(), "never/was/here")
	must.ErrorIs(t, err, drivers.ErrTaskNotFound)
}

// A caller that has left is not waited for.
func TestWait_CallerLeaves(t *testing.T) {
	s := newSetup(t, "")
	s.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	ch, err := s.h.WaitTask(ctx, s.cfg.ID)
	must.NoError(t, err)
	cancel()
	must.Error(t, wait(t, ch).Err)
}

// The end of the driver gives a result as well.
func TestWait_DriverEnds(t *testing.T) {
	f := newFake()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d := New(ctx, "lifecycle-fake", f, testLogger())
	cfg := newTaskConfig(t)
	url := hookServer(t, f.script)
	setConfig(t, d, cfg, block("poststop {\n http {\n url = \""+url+"/poststop\"\n }\n}\n"))
	_, _, err := d.StartTask(cfg)
	must.NoError(t, err)
	ch, err := d.WaitTask(t.Context(), cfg.ID)
	must.NoError(t, err)
	cancel()
	must.ErrorContains(t, wait(t, ch).Err, "the driver is shutting down")
	// The process still runs, so nothing that follows its end may happen.
	must.Eq(t, []string{"start"}, f.all())
}

// Signals, commands and the rest go to the inner driver as they are.
func TestForwarded(t *testing.T) {
	s := newSetup(t, "")
	s.start(t)
	must.NoError(t, s.h.SignalTask(s.cfg.ID, "SIGHUP"))
	r, err := s.h.ExecTask(s.cfg.ID, []string{"ls", "-l"}, time.Second)
	must.NoError(t, err)
	must.Eq(t, 0, r.ExitResult.ExitCode)
	status, err := s.h.InspectTask(s.cfg.ID)
	must.NoError(t, err)
	must.Eq(t, s.cfg.ID, status.ID)
	must.Eq(t, "running", status.DriverAttributes["lifecycle.state"])
	must.Eq(t, []string{"start", "signal SIGHUP", "exec ls -l"}, s.all())
}

func TestNetwork(t *testing.T) {
	s := newSetup(t, "")
	spec := &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: "/run/x", Labels: map[string]string{"a": "b"}}
	s.CreateNetworkF = func(id string, _ *drivers.NetworkCreateRequest) (*drivers.NetworkIsolationSpec, bool, error) {
		s.add("network %s", id)
		return spec, true, nil
	}
	s.DestroyNetworkF = func(id string, got *drivers.NetworkIsolationSpec) error {
		s.add("no network %s %s", id, got.Path)
		return nil
	}
	m, ok := s.h.(drivers.DriverNetworkManager)
	must.True(t, ok)
	got, created, err := m.CreateNetwork("a1", &drivers.NetworkCreateRequest{})
	must.NoError(t, err)
	must.True(t, created)
	must.Eq(t, spec.Path, got.Path)
	must.Eq(t, spec.Labels, got.Labels)
	must.NoError(t, m.DestroyNetwork("a1", got))
	must.Eq(t, []string{"network a1", "no network a1 /run/x"}, s.all())
}

// Drivers without networks of their own say so and do not crash.
func TestNetwork_NotSupported(t *testing.T) {
	d := decorate(t, "lifecycle-raw_exec", inners()["raw_exec"])
	_, _, err := d.CreateNetwork("a1", &drivers.NetworkCreateRequest{})
	must.ErrorContains(t, err, "does not create networks")
	must.ErrorContains(t, d.DestroyNetwork("a1", &drivers.NetworkIsolationSpec{}), "does not create networks")
}
