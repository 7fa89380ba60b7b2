package driver

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

func TestJournal_RoundTrip(t *testing.T) {
	cfg := newTaskConfig(t)
	cfg.Env["SECRET"] = "s"
	must.NoError(t, cfg.EncodeConcreteDriverConfig(map[string]any{"command": "a"}))
	j := newJournal(cfg)
	must.Eq(t, filepath.Join(cfg.AllocDir, ".lifecycle", "web.json"), j.path)
	must.NoError(t, j.load()) // none yet
	orphan, err := j.orphan()
	must.NoError(t, err)
	must.Nil(t, orphan)

	handle := drivers.NewTaskHandle(3)
	handle.Config, handle.DriverState = cfg, []byte{0, 1, 255}
	must.NoError(t, j.started(handle))

	info, err := os.Stat(j.path)
	must.NoError(t, err)
	must.Eq(t, 0o600, info.Mode().Perm())
	dir, err := os.Stat(filepath.Dir(j.path))
	must.NoError(t, err)
	must.Eq(t, 0o700, dir.Mode().Perm())
	files, err := os.ReadDir(filepath.Dir(j.path))
	must.NoError(t, err)
	must.Len(t, 1, files)

	again := newJournal(cfg)
	must.NoError(t, again.load())
	orphan, err = again.orphan()
	must.NoError(t, err)
	must.Eq(t, 3, orphan.Version)
	must.Eq(t, []byte{0, 1, 255}, orphan.DriverState)
	must.Eq(t, cfg.ID, orphan.Config.ID)
	must.Eq(t, cfg.AllocDir, orphan.Config.AllocDir)
	must.Eq(t, "s", orphan.Config.Env["SECRET"])
	must.Eq(t, 0, again.prestopDone())

	must.NoError(t, again.answered())
	_, err = os.Stat(j.path)
	must.ErrorIs(t, err, os.ErrNotExist)
	must.NoError(t, again.answered()) // once more does no harm
}

func TestJournal_PrestopDone(t *testing.T) {
	cfg := newTaskConfig(t)
	must.NoError(t, newJournal(cfg).setPrestopDone(2))
	j := newJournal(cfg)
	must.NoError(t, j.load())
	must.Eq(t, 2, j.prestopDone())
	orphan, err := j.orphan()
	must.NoError(t, err)
	must.Nil(t, orphan)
}

func TestJournal_Unreadable(t *testing.T) {
	cfg := newTaskConfig(t)
	j := newJournal(cfg)
	must.NoError(t, j.setPrestopDone(1))
	must.NoError(t, os.WriteFile(j.path, []byte(`{"inner":`), 0o600))
	must.ErrorContains(t, newJournal(cfg).load(), "read journal")
	// A start goes on all the same.
	s := newSetup(t, "")
	s.cfg.AllocDir = cfg.AllocDir
	s.configure(t, block(httpHook("poststart", "poststart", "")))
	s.start(t)
	must.Eq(t, []string{"start", "hook /poststart"}, s.all())
}

// While start hooks run, the journal names the inner task; afterwards nothing
// is left of it.
func TestJournal_DuringStart(t *testing.T) {
	s := newSetup(t, "")
	s.configure(t, block(httpHook("ready", "hang", "timeout = \"1h\"")))
	path := newJournal(s.cfg).path
	done := make(chan error, 1)
	go func() {
		_, _, err := s.h.StartTask(s.cfg)
		done <- err
	}()
	eventually(t, "ready hook runs", func() bool { return s.count("hook /hang") == 1 })
	_, err := os.Stat(path)
	must.NoError(t, err)
	s.only(t).finish(&drivers.ExitResult{})
	must.Error(t, receive(t, done))
	s.forgotten(t)
}

// What a plugin that died in a start has left is ended before the next start.
func TestJournal_OrphanIsEndedBeforeTheNextStart(t *testing.T) {
	cases := map[string]struct {
		gone bool // the left-over process has ended meanwhile
		want []string
	}{
		"still runs": {false, []string{"recover version 1 pid 42", "stop ", "destroy force=true", "hook /prestart", "start"}},
		"gone":       {true, []string{"hook /prestart", "start"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, block(httpHook("prestart", "prestart", "")))
			// Nomad gives the next try another ID.
			left := s.cfg.Copy()
			left.ID = s.cfg.AllocID + "/web/0ld"
			handle := drivers.NewTaskHandle(1)
			handle.Config = left
			must.NoError(t, handle.SetDriverState(&struct{ Pid int }{42}))
			must.NoError(t, newJournal(s.cfg).started(handle))
			if tc.gone {
				s.RecoverTaskF = func(*drivers.TaskHandle) error { return drivers.ErrTaskNotFound }
			}
			s.start(t)
			must.Eq(t, tc.want, s.all())
			must.Eq(t, s.cfg.ID, s.only(t).cfg.ID)
			// The new start stays in the journal until Nomad is seen to know it.
			_, err := os.Stat(newJournal(s.cfg).path)
			must.NoError(t, err)
			_, err = s.d.WaitTask(t.Context(), s.cfg.ID)
			must.NoError(t, err)
			_, err = os.Stat(newJournal(s.cfg).path)
			must.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

// An earlier start's stop in the same allocation is not about the next one.
func TestJournal_RestartRunsPrestopAgain(t *testing.T) {
	s := newSetup(t, block(httpHook("prestop", "prestop", "")))
	for i := range 2 {
		s.cfg.ID = s.cfg.AllocID + "/web/" + string(rune('a'+i))
		s.start(t)
		must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, ""))
		if i == 0 { // a crash before the destroy leaves the journal
			must.Eq(t, 1, s.count("hook /prestop"))
		}
	}
	must.Eq(t, 2, s.count("hook /prestop"))
}

func TestRecover(t *testing.T) {
	s := newSetup(t, block(
		"prestop {\n http {\n url = \"URL/prestop\"\n headers = { X-A = \"1\" }\n }\n}\n", httpHook("poststop", "poststop", ""),
	))
	handle := decoded(t, s.start(t))
	var none map[string]any
	must.Error(t, handle.Config.DecodeDriverConfig(&none))

	// Another plugin process, with the same inner task.
	next := newSetup(t, "")
	must.NoError(t, next.h.RecoverTask(handle))
	must.NoError(t, next.h.RecoverTask(handle)) // once more does no harm
	must.Eq(t, []string{"recover version 1 pid 42"}, next.all())
	task, err := next.d.task(s.cfg.ID)
	must.NoError(t, err)
	must.Eq(t, lifecycle.Running, task.machine.State())
	must.Eq(t, map[string]string{"X-A": "1"}, task.spec.hooks[hook.Prestop][0].HTTP.Headers)

	ch, err := next.h.WaitTask(t.Context(), s.cfg.ID)
	must.NoError(t, err)
	must.NoError(t, next.h.StopTask(s.cfg.ID, time.Minute, "SIGINT"))
	must.Eq(t, 143, wait(t, ch).ExitCode)
	must.Eq(t, []string{"start", "hook /prestop", "hook /poststop"}, s.all())
	must.Eq(t, []string{"recover version 1 pid 42", "stop SIGINT"}, next.all())
}

// A handle of the inner driver itself, from before the plugin took its place.
func TestRecover_StockHandle(t *testing.T) {
	s := newSetup(t, "")
	stock, _, err := s.fake.start(s.cfg)
	must.NoError(t, err)
	next := newSetup(t, "")
	must.NoError(t, next.h.RecoverTask(decoded(t, stock)))
	must.NoError(t, next.h.StopTask(s.cfg.ID, time.Minute, "SIGINT"))
	must.NoError(t, next.h.DestroyTask(s.cfg.ID, false))
	must.Eq(t, []string{"recover version 1 pid 42", "stop SIGINT", "destroy force=false"}, next.all())
}

func TestRecover_Refuses(t *testing.T) {
	good := drivers.NewTaskHandle(handleVersion)
	good.Config = newTaskConfig(t)
	must.NoError(t, good.SetDriverState(&handleState{InnerVersion: 1}))
	cases := map[string]struct {
		handle func() *drivers.TaskHandle
		want   string
	}{
		"nil":          {func() *drivers.TaskHandle { return nil }, "no handle"},
		"no config":    {func() *drivers.TaskHandle { return drivers.NewTaskHandle(handleVersion) }, "no handle"},
		"broken state": {func() *drivers.TaskHandle { h := good.Copy(); h.DriverState = []byte{0xc1}; return h }, "decode handle"},
		"inner fails":  {good.Copy, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, "")
			s.RecoverTaskF = func(*drivers.TaskHandle) error { return drivers.ErrTaskNotFound }
			err := s.d.RecoverTask(tc.handle())
			must.ErrorContains(t, err, tc.want)
			must.MapEmpty(t, s.d.tasks)
		})
	}
}

// prestop hooks that had ended when the plugin died do not run again; the one
// that was running does.
func TestRecover_PrestopGoesOn(t *testing.T) {
	f := newFake()
	url := hookServer(t, f.script)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d := New(ctx, "lifecycle-fake", f, testLogger())
	cfg := newTaskConfig(t)
	text := func(second string) string {
		return block(
			"prestop {\n http {\n url = \""+url+"/first\"\n }\n}\n",
			"prestop {\n http {\n url = \""+url+"/"+second+"\"\n }\n timeout = \"1h\"\n}\n",
			"prestop {\n http {\n url = \""+url+"/third\"\n }\n}\n",
		)
	}
	setConfig(t, d, cfg, text("hang"))
	handle, _, err := d.StartTask(cfg)
	must.NoError(t, err)
	done := make(chan error, 1)
	f.StopTaskF = func(string, time.Duration, string) error { return context.Canceled }
	go func() { done <- d.StopTask(cfg.ID, time.Hour, "") }()
	eventually(t, "second hook runs", func() bool { return f.count("hook /hang") == 1 })
	cancel() // the plugin dies
	must.Error(t, receive(t, done))

	next := newSetup(t, "")
	recovered := decoded(t, handle)
	var state handleState
	must.NoError(t, recovered.GetDriverState(&state))
	state.Lifecycle.Prestop[1].HTTP.URL = url + "/second" // it answers this time
	must.NoError(t, recovered.SetDriverState(&state))
	must.NoError(t, next.h.RecoverTask(recovered))
	must.NoError(t, next.h.StopTask(cfg.ID, time.Minute, ""))
	must.Eq(t, []string{"start", "hook /first", "hook /hang", "hook /second", "hook /third"}, f.all())
	must.NoError(t, next.h.DestroyTask(cfg.ID, false))
	_, err = os.Stat(newJournal(cfg).path)
	must.ErrorIs(t, err, os.ErrNotExist)
}

// Hooks that this version of the plugin does not understand do not make the task
// one that nobody can stop: it goes on without them.
func TestRecover_UnknownHooks(t *testing.T) {
	s := newSetup(t, block("prestop {\n http {\n url = \"URL/leave\"\n }\n}\n"))
	handle := decoded(t, s.start(t))
	var state handleState
	must.NoError(t, handle.GetDriverState(&state))
	state.Lifecycle.Prestop[0].Timeout = "a while"
	must.NoError(t, handle.SetDriverState(&state))

	next := newSetup(t, "")
	must.NoError(t, next.h.RecoverTask(handle))
	must.NoError(t, next.h.StopTask(s.cfg.ID, time.Minute, ""))
	must.Eq(t, 0, s.count("hook /leave"))
	must.Eq(t, 0, next.count("hook /leave"))
	must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, ""))
}
