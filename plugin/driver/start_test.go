package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

// httpHook is one hook of a kind; url may leave keys behind it on its line.
func httpHook(kind, path, more string) string {
	return kind + " {\n http {\n url = \"URL/" + path + "\"\n }\n" + more + "\n}\n"
}

func block(hooks ...string) string { return "lifecycle {\n" + strings.Join(hooks, "") + "}\n" }

func TestLifecycle_Order(t *testing.T) {
	s := newSetup(t, block(
		httpHook("poststop", "poststop", ""), httpHook("prestop", "prestop1", ""), httpHook("prestop", "prestop2", ""),
		httpHook("ready", "ready", ""), httpHook("poststart", "poststart", ""), httpHook("prestart", "prestart", ""),
	))
	handle := s.start(t)
	must.Eq(t, []string{"hook /prestart", "start", "hook /poststart", "hook /ready"}, s.all())
	must.Eq(t, handleVersion, handle.Version)
	must.Eq(t, drivers.TaskStateRunning, handle.State)
	task, err := s.d.task(s.cfg.ID)
	must.NoError(t, err)
	must.Eq(t, lifecycle.Running, task.machine.State())

	result := s.waitTask(t)
	must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, "SIGUSR1"))
	must.Eq(t, 15, wait(t, result).Signal)
	must.Eq(t, []string{
		"hook /prestart", "start", "hook /poststart", "hook /ready",
		"hook /prestop1", "hook /prestop2", "stop SIGUSR1", "hook /poststop",
	}, s.all())
	must.Eq(t, lifecycle.Stopped, task.machine.State())

	must.NoError(t, s.h.DestroyTask(s.cfg.ID, false))
	must.Eq(t, lifecycle.Destroyed, task.machine.State())
	s.forgotten(t)
}

// Without a block nothing is added: no journal, no environment, the same calls.
func TestLifecycle_NoBlock(t *testing.T) {
	s := newSetup(t, "command = \"/bin/a\"\n")
	var timeout time.Duration
	stop := s.StopTaskF
	s.StopTaskF = func(id string, d time.Duration, signal string) error {
		timeout = d
		return stop(id, d, signal)
	}
	events := collect(t, s)
	handle, network, err := s.h.StartTask(s.cfg)
	must.NoError(t, err)
	must.Eq(t, "10.0.0.9", network.IP)
	must.Eq(t, handleVersion, handle.Version)
	for _, key := range []string{eventKey, checkpointKey, socketKey} {
		must.MapNotContainsKey(t, s.only(t).cfg.Env, key)
	}
	result := s.waitTask(t)
	must.NoError(t, s.h.StopTask(s.cfg.ID, 7*time.Second, "SIGHUP"))
	must.Eq(t, 7*time.Second, timeout)
	must.Eq(t, 143, wait(t, result).ExitCode)
	must.NoError(t, s.h.DestroyTask(s.cfg.ID, true))
	must.Eq(t, []string{"start", "stop SIGHUP", "destroy force=true"}, s.all())
	must.SliceEmpty(t, events())
	s.forgotten(t)
	_, err = os.Stat(filepath.Join(s.cfg.AllocDir, ".lifecycle"))
	must.ErrorIs(t, err, os.ErrNotExist)
}

// An empty block asks for nothing but the task events.
func TestLifecycle_EmptyBlock(t *testing.T) {
	s := newSetup(t, "command = \"/bin/a\"\nlifecycle {\n}\n")
	events := collect(t, s)
	s.start(t)
	for _, key := range []string{eventKey, checkpointKey, socketKey} {
		must.MapNotContainsKey(t, s.only(t).cfg.Env, key)
	}
	result := s.waitTask(t)
	must.NoError(t, s.h.StopTask(s.cfg.ID, 7*time.Second, "SIGHUP"))
	must.Eq(t, 143, wait(t, result).ExitCode)
	must.NoError(t, s.h.DestroyTask(s.cfg.ID, true))
	must.Eq(t, []string{"start", "stop SIGHUP", "destroy force=true"}, s.all())
	must.Eq(t, []string{"running", "stopping", "stopped"}, states(events()))
	s.forgotten(t)
}

// A mistake in the job file is named before anything runs, and is not tried
// again: no new try could mend it.
func TestStart_BadConfig(t *testing.T) {
	cases := map[string]struct{ text, want string }{
		"duration":      {httpHook("prestop", "x", `timeout = "soon"`), "lifecycle.prestop[0].timeout"},
		"second hook":   {httpHook("ready", "x", "") + "ready {\n}\n", "lifecycle.ready[1]: 0 actions"},
		"unknown port":  {"ready {\n http {\n port = \"web\"\n }\n}\n", `lifecycle.ready[0].http.port: the group's network has no port labelled "web"`},
		"group network": {"ready {\n http {\n url = \"http://127.0.0.1/\"\n network = \"group\"\n }\n}\n", "lifecycle.ready[0].http.network"},
		"on_failure":    {httpHook("prestop", "x", `on_failure = "fail"`), "lifecycle.prestop[0].on_failure"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, block(httpHook("prestart", "prestart", ""), tc.text))
			_, _, err := s.h.StartTask(s.cfg)
			must.ErrorContains(t, err, tc.want)
			must.False(t, structs.IsRecoverable(err))
			must.SliceEmpty(t, s.all())
			s.forgotten(t)
		})
	}
}

func TestStart_FailingHook(t *testing.T) {
	fails := map[string]struct {
		text string
		want string
		all  []string
	}{
		"prestart": {
			httpHook("prestart", "fail", ""), "lifecycle.prestart[0].http failed after 1 try: POST ",
			[]string{"hook /fail"},
		},
		"poststart": {
			httpHook("poststart", "fail", "retries = 1\ninterval = \"10ms\""), "lifecycle.poststart[0].http failed after 2 tries: POST ",
			[]string{"start", "hook /fail", "hook /fail", "stop ", "destroy force=true", "hook /poststop"},
		},
		"second poststart": {
			httpHook("poststart", "ok", "") + httpHook("poststart", "fail", ""), "lifecycle.poststart[1].http failed",
			[]string{"start", "hook /ok", "hook /fail", "stop ", "destroy force=true", "hook /poststop"},
		},
		"ready": {
			httpHook("ready", "hang", "timeout = \"200ms\""), "lifecycle.ready[0].http failed after 1 try: cut at its timeout of 200ms",
			[]string{"start", "hook /hang", "stop ", "destroy force=true", "hook /poststop"},
		},
	}
	for name, tc := range fails {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, block(tc.text, httpHook("poststop", "poststop", ""), httpHook("prestop", "prestop", "")))
			_, _, err := s.h.StartTask(s.cfg)
			must.ErrorContains(t, err, tc.want)
			must.True(t, structs.IsRecoverable(err))
			got := s.all()
			if len(got) > 4 { // the end of the process is seen at stop: poststop and destroy may change places
				must.SliceContainsAll(t, tc.all, got)
				must.SliceContains(t, got, "hook /poststop")
			} else {
				must.Eq(t, tc.all, got)
			}
			s.forgotten(t)
			must.NoError(t, s.h.StopTask(s.cfg.ID, time.Second, "SIGTERM"))
			must.Eq(t, got, s.all())
		})
	}
}

func TestStart_IgnoredFailureGoesOn(t *testing.T) {
	ignore := "on_failure = \"ignore\""
	s := newSetup(t, block(
		httpHook("prestart", "fail1", ignore), httpHook("prestart", "ok", ""),
		httpHook("poststart", "fail2", ignore), httpHook("ready", "hang", ignore+"\ntimeout = \"100ms\""),
	))
	s.start(t)
	must.Eq(t, []string{"hook /fail1", "hook /ok", "start", "hook /fail2", "hook /hang"}, s.all())
}

// A process that dies while it is being waited for fails the start at once, and
// the error says how it died.
func TestStart_ProcessEndsDuringReady(t *testing.T) {
	cases := map[string]struct {
		result *drivers.ExitResult
		want   string
	}{
		"exit code": {&drivers.ExitResult{ExitCode: 3}, "it ended with exit code 3"},
		"signal":    {&drivers.ExitResult{Signal: 11}, "it ended with signal 11"},
		"error":     {&drivers.ExitResult{Err: errors.New("lost sight of it")}, "lost sight of it"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, block(httpHook("ready", "fail", "timeout = \"1h\"\ninterval = \"1h\"")))
			start := s.StartTaskF
			s.StartTaskF = func(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
				handle, network, err := start(cfg)
				task, terr := s.task(cfg.ID)
				if terr != nil {
					return nil, nil, terr
				}
				timer := time.AfterFunc(50*time.Millisecond, func() { task.finish(tc.result) })
				t.Cleanup(func() { timer.Stop() })
				return handle, network, err
			}
			_, _, err := s.h.StartTask(s.cfg)
			must.ErrorContains(t, err, "the task's process has ended")
			must.ErrorContains(t, err, tc.want)
			must.True(t, structs.IsRecoverable(err))
			s.forgotten(t)
		})
	}
}

// The inner driver's own errors stay as they are.
func TestStart_InnerError(t *testing.T) {
	for name, inner := range map[string]error{
		"final":       errors.New("no such image"),
		"recoverable": structs.NewRecoverableError(errors.New("engine is down"), true),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, block(httpHook("prestart", "prestart", ""), httpHook("poststop", "poststop", "")))
			s.StartTaskF = func(*drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) { return nil, nil, inner }
			_, _, err := s.h.StartTask(s.cfg)
			must.ErrorContains(t, err, inner.Error())
			must.Eq(t, structs.IsRecoverable(inner), structs.IsRecoverable(err))
			must.Eq(t, []string{"hook /prestart"}, s.all())
			s.forgotten(t)
		})
	}
}

func TestStart_Twice(t *testing.T) {
	s := newSetup(t, "")
	s.start(t)
	_, _, err := s.h.StartTask(s.cfg)
	must.ErrorContains(t, err, "already started")
	must.Eq(t, []string{"start"}, s.all())
}

func TestStart_Mounts(t *testing.T) {
	for name, tc := range map[string]struct {
		support drivers.MountConfigSupport
		want    string
	}{
		"none": {drivers.MountConfigSupportNone, "does not support volume mounts"},
		"all":  {drivers.MountConfigSupportAll, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, "")
			s.caps.MountConfigs = tc.support
			s.cfg.Mounts = []*drivers.MountConfig{{HostPath: "/a", TaskPath: "/b"}}
			_, _, err := s.h.StartTask(s.cfg)
			if tc.want != "" {
				must.ErrorContains(t, err, tc.want)
				must.SliceEmpty(t, s.all())
				return
			}
			must.NoError(t, err)
			must.Len(t, 1, s.only(t).cfg.Mounts)
		})
	}
}

func TestStart_ParentJobID(t *testing.T) {
	for id, want := range map[string]string{
		"shop":                            "",
		"shop/dispatch-1700000000-0f1e2d": "shop",
		"shop/periodic-1700000000":        "shop",
		"a/dispatch-b/dispatch-1-2":       "a/dispatch-b",
		"/dispatch-1-2":                   "",
	} {
		t.Run(id, func(t *testing.T) {
			s := newSetup(t, "")
			s.cfg.JobID = id
			s.start(t)
			must.Eq(t, want, s.only(t).cfg.ParentJobID)
			must.Eq(t, id, s.only(t).cfg.JobID)
		})
	}
}

// Docker has an entrypoint, which a prestart command must replace as well.
func TestWithCommand(t *testing.T) {
	cases := map[string]struct {
		schema map[string]*hclspec.Spec
		want   map[string]any
	}{
		"exec and raw_exec": {nil, map[string]any{"command": "/bin/migrate", "args": []any{"-up"}, "image": "a"}},
		"docker": {
			map[string]*hclspec.Spec{"entrypoint": hclspec.NewAttr("entrypoint", "list(string)", false)},
			map[string]any{"command": "", "entrypoint": []any{"/bin/migrate"}, "args": []any{"-up"}, "image": "a"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.TaskConfigSchemaF = func() (*hclspec.Spec, error) { return hclspec.NewObject(tc.schema), nil }
			d := decorate(t, "lifecycle-fake", f.factory)
			cfg := newTaskConfig(t)
			must.NoError(t, cfg.EncodeConcreteDriverConfig(map[string]any{
				"image": "a", "command": "serve", "args": []string{"x", "y"}, blockName: map[string]any{},
			}))
			got, err := d.withCommand(cfg, []string{"/bin/migrate", "-up"})
			must.NoError(t, err)
			must.Eq(t, cfg.ID+"/prestart", got.ID)
			var words map[string]any
			must.NoError(t, got.DecodeDriverConfig(&words))
			must.Eq(t, tc.want, words)
			// The task's own configuration stays as it was.
			var own map[string]any
			must.NoError(t, cfg.DecodeDriverConfig(&own))
			must.Eq(t, "serve", own["command"].(string))
		})
	}
}

// An exec hook of the running task goes to the inner driver, with the event in
// a file whose name the task's environment has.
func TestStart_ExecHook(t *testing.T) {
	s := newSetup(t, block("poststart {\n exec {\n command = [\"warm\", \"up\"]\n }\n}\n"))
	s.start(t)
	must.Eq(t, []string{"start", "exec warm up"}, s.all())
	file := s.only(t).cfg.Env[eventKey]
	must.Eq(t, filepath.Join(s.cfg.AllocDir, "web", "local", "lifecycle", "event.json"), file)
	_, err := os.Stat(file)
	must.NoError(t, err)
	must.MapNotContainsKey(t, s.cfg.Env, eventKey)
}

// A command that does not heed its limit is given up; the docker driver's does
// not.
func TestStart_ExecHookThatHangs(t *testing.T) {
	s := newSetup(t, block("poststart {\n exec {\n command = [\"warm\"]\n }\n timeout = \"100ms\"\n}\n"))
	release := make(chan struct{})
	defer close(release)
	s.ExecTaskF = func(string, []string, time.Duration) (*drivers.ExecTaskResult, error) {
		<-release
		return nil, errors.New("late")
	}
	_, _, err := s.h.StartTask(s.cfg)
	must.ErrorContains(t, err, "lifecycle.poststart[0].exec failed after 1 try: cut at its timeout of 100ms")
	s.forgotten(t)
}

// A prestart command is a task of its own in the inner driver, and gone when
// the real one starts.
func TestStart_PrestartExec(t *testing.T) {
	cases := map[string]struct {
		result *drivers.ExitResult // nil: it does not end by itself
		want   string
		all    []string
	}{
		"success":   {&drivers.ExitResult{}, "", []string{"start", "stop ", "destroy force=true", "start"}},
		"exit code": {&drivers.ExitResult{ExitCode: 4}, `"migrate" ended with exit code 4`, []string{"start", "stop ", "destroy force=true"}},
		"signal":    {&drivers.ExitResult{ExitCode: 137, Signal: 9}, "ended by signal 9", []string{"start", "stop ", "destroy force=true"}},
		"no end":    {nil, "cut at its timeout of 200ms", []string{"start", "stop ", "destroy force=true"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, block("prestart {\n exec {\n command = [\"migrate\"]\n }\n timeout = \"200ms\"\n}\n"))
			start := s.StartTaskF
			s.StartTaskF = func(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
				handle, network, err := start(cfg)
				if task, terr := s.task(cfg.ID); terr == nil && tc.result != nil && strings.HasSuffix(cfg.ID, "/prestart") {
					task.finish(tc.result)
				}
				return handle, network, err
			}
			_, _, err := s.h.StartTask(s.cfg)
			must.Eq(t, tc.all, s.all())
			if tc.want == "" {
				must.NoError(t, err)
				must.Eq(t, s.cfg.ID, s.only(t).cfg.ID)
				return
			}
			must.ErrorContains(t, err, tc.want)
			must.True(t, structs.IsRecoverable(err))
			s.forgotten(t)
		})
	}
}

// The driver's end, which is the plugin's, ends what waits in a start.
func TestStart_DriverEnds(t *testing.T) {
	f := newFake()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d := New(ctx, "lifecycle-fake", f, testLogger())
	cfg := newTaskConfig(t)
	setConfig(t, d, cfg, block("poststart {\n sleep = \"50m\"\n}\n"))
	done := make(chan error, 1)
	go func() {
		_, _, err := d.StartTask(cfg)
		done <- err
	}()
	eventually(t, "inner task starts", func() bool { return f.count("start") == 1 })
	cancel()
	must.Error(t, receive(t, done))
}
