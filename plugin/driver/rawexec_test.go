package driver

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/client/lib/cgroupslib"
	"github.com/hashicorp/nomad/client/lib/numalib"
	"github.com/hashicorp/nomad/drivers/rawexec"
	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	dtestutil "github.com/hashicorp/nomad/plugins/drivers/testutils"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
	"github.com/nomad-patterns/nomad-patterns/plugin/process"
)

// real is a decorated raw_exec behind gRPC, with a task whose directories and
// cgroup are made as Nomad's client makes them. Needs root, as Nomad does.
type realDriver struct {
	d   *Driver
	h   *dtestutil.DriverHarness
	cfg *drivers.TaskConfig
	out string // file with the task's output
	*script
	url string
}

func newRealDriver(t *testing.T) (*Driver, drivers.DriverPlugin) {
	t.Helper()
	d := decorate(t, "lifecycle-raw_exec", rawexec.NewRawExecDriver)
	h := harness(t, d)
	enable(t, h)
	return d, h
}

func enable(t *testing.T, h drivers.DriverPlugin) {
	t.Helper()
	cfg := agentOf(t)
	must.NoError(t, base.MsgPackEncode(&cfg.PluginConfig, &rawexec.Config{Enabled: true}))
	must.NoError(t, h.SetConfig(cfg))
}

// agentOf is what an agent on this machine tells drivers of itself.
func agentOf(t *testing.T) *base.Config {
	t.Helper()
	return &base.Config{
		ApiVersion: drivers.ApiVersion010,
		AgentConfig: &base.AgentConfig{Driver: &base.ClientDriverConfig{
			Topology: numalib.Scan(numalib.PlatformScanners(false)),
		}},
	}
}

// initCgroups sets up Nomad's cgroups as a client does at its start: with cgroups v1, a
// new cpuset takes no process until it has been told its cores and memory.
func initCgroups(t *testing.T) {
	t.Helper()
	cores := numalib.Scan(numalib.PlatformScanners(false)).UsableCores()
	must.NoError(t, cgroupslib.Init(testLogger(), cores.String()))
}

// newReal makes a task that runs a shell script, with lifecycle hooks.
func newReal(t *testing.T, command, hooks string) *realDriver {
	t.Helper()
	r := &realDriver{script: &script{}}
	r.d = decorate(t, "lifecycle-raw_exec", rawexec.NewRawExecDriver)
	// Nomad's harness, because it makes directories and cgroups. It is closed
	// with them.
	r.h = dtestutil.NewDriverHarness(t, r.d)
	enable(t, r.h)
	r.url = hookServer(t, r.script)
	allocID := uuid.Generate()
	r.cfg = &drivers.TaskConfig{
		ID: allocID + "/web/" + uuid.Short(), AllocID: allocID,
		Namespace: "prod", JobName: "shop", JobID: "shop", TaskGroupName: "front", Name: "web",
		Env: map[string]string{"GREETING": "hello"},
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{
				Memory: structs.AllocatedMemoryResources{MemoryMB: 64},
				Cpu:    structs.AllocatedCpuResources{CpuShares: 100},
			},
			LinuxResources: &drivers.LinuxResources{
				MemoryLimitBytes: 64 << 20, CPUShares: 100,
				CpusetCgroupPath: cgroupslib.LinuxResourcesPath(allocID, "web", false),
			},
		},
	}
	initCgroups(t)
	r.h.MakeTaskCgroup(allocID, "web")
	// The harness leaves some of its directories behind.
	was := os.Getenv("TMPDIR")
	t.Setenv("TMPDIR", t.TempDir())
	t.Cleanup(r.h.MkAllocDir(r.cfg, false))
	t.Setenv("TMPDIR", was) // sockets lie there, which want short paths
	r.out = filepath.Join(r.cfg.AllocDir, "output")
	must.NoError(t, os.WriteFile(r.out, nil, 0o600))
	r.cfg.StdoutPath, r.cfg.StderrPath = r.out, os.DevNull
	r.configure(t, command, hooks)
	t.Cleanup(func() { must.NoError(t, r.h.DestroyTask(r.cfg.ID, true)) })
	return r
}

func (r *realDriver) configure(t *testing.T, command, hooks string) {
	t.Helper()
	quoted, err := json.Marshal([]string{"-c", command})
	must.NoError(t, err)
	text := strings.ReplaceAll(hooks, "URL", r.url)
	setConfig(t, r.d, r.cfg, "command = \"/bin/sh\"\nargs = "+string(quoted)+"\n"+text)
}

// local is the path of a file in the task's local directory.
func (r *realDriver) local(name string) string { return filepath.Join(r.cfg.TaskDir().LocalDir, name) }

func (r *realDriver) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(r.local(name))
	must.NoError(t, err)
	return string(data)
}

// pid waits for a process to write its ID into a file.
func (r *realDriver) pid(t *testing.T, name string) int {
	t.Helper()
	var pid int
	eventually(t, "pid in "+name, func() bool {
		data, err := os.ReadFile(r.local(name))
		if err != nil || !strings.HasSuffix(string(data), "\n") {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
		return err == nil
	})
	return pid
}

// alive reports whether a process runs. One that has ended and that nobody has
// waited for does not.
func alive(t *testing.T, pid int) bool {
	t.Helper()
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, state, ok := strings.Cut(string(stat), ") ")
	must.True(t, ok)
	return !strings.HasPrefix(state, "Z")
}

// gone waits for a process to be no more: a kill is not over when it returns.
func gone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, "end of process "+strconv.Itoa(pid), func() bool { return !alive(t, pid) })
}

func shell(kind, command, more string) string {
	quoted, err := json.Marshal([]string{"/bin/sh", "-c", command})
	if err != nil {
		panic(err) // strings always encode
	}
	return kind + " {\n exec {\n command = " + strings.ReplaceAll(string(quoted), "${", "$${") + "\n }\n" + more + "\n}\n"
}

const (
	forever = "echo $$ > $NOMAD_TASK_DIR/pid; exec sleep 300"
	copyOut = "cp $LIFECYCLE_EVENT_FILE $NOMAD_TASK_DIR/"
)

func TestReal_Life(t *testing.T) {
	r := newReal(t, forever, block(
		shell("prestart", copyOut+"prestart; echo $GREETING", ""), shell("poststart", copyOut+"poststart", ""),
		shell("ready", copyOut+"ready && test -s $NOMAD_TASK_DIR/pid", "interval = \"20ms\"\ntimeout = \"15s\""),
		shell("prestop", copyOut+"prestop", ""), httpHook("poststop", "poststop", ""),
	))
	handle, _, err := r.h.StartTask(r.cfg)
	must.NoError(t, err)
	must.Eq(t, handleVersion, handle.Version)
	pid := r.pid(t, "pid")
	must.True(t, alive(t, pid))
	output, err := os.ReadFile(r.out)
	must.NoError(t, err)
	must.Eq(t, "hello\n", string(output))

	ch, err := r.h.WaitTask(t.Context(), r.cfg.ID)
	must.NoError(t, err)
	must.NoError(t, r.h.StopTask(r.cfg.ID, 10*time.Second, "SIGTERM"))
	must.Eq(t, int(syscall.SIGTERM), wait(t, ch).Signal)
	gone(t, pid)
	must.Eq(t, []string{"hook /poststop"}, r.all())

	for _, kind := range []hook.Kind{hook.Prestart, hook.Poststart, hook.Ready, hook.Prestop} {
		var ev hook.Event
		must.NoError(t, json.Unmarshal([]byte(r.read(t, string(kind))), &ev))
		must.Eq(t, kind, ev.Event)
		must.Eq(t, r.cfg.AllocID, ev.AllocID)
		must.Eq(t, []string{"prod", "shop", "front", "web"}, []string{ev.Namespace, ev.Job, ev.Group, ev.Task})
		must.Positive(t, ev.Attempt)
		must.False(t, ev.Deadline.IsZero())
	}
}

// Commands of the running task: their exit code and output decide.
func TestReal_ExecHookFails(t *testing.T) {
	r := newReal(t, forever, block(shell("poststart", "until test -s $NOMAD_TASK_DIR/pid; do sleep 0.01; done; echo cannot warm up; exit 3", "")))
	_, _, err := r.h.StartTask(r.cfg)
	must.ErrorContains(t, err, `lifecycle.poststart[0].exec failed after 1 try: "/bin/sh" ended with exit code 3: cannot warm up`)
	must.True(t, structs.IsRecoverable(err))
	gone(t, r.pid(t, "pid"))
	_, err = r.d.task(r.cfg.ID)
	must.ErrorIs(t, err, drivers.ErrTaskNotFound)
}

// A prestart command ends with all that it has started, however it ends, and
// the task's own process runs only if it was a success.
func TestReal_PrestartLeavesNoProcess(t *testing.T) {
	// The executor waits for everybody who holds the output, as for any task.
	const child = "sleep 300 >/dev/null 2>&1 & echo $! > $NOMAD_TASK_DIR/child; "
	cases := map[string]struct{ command, want string }{
		"success":   {child + "exit 0", ""},
		"exit code": {child + "exit 4", `"/bin/sh" ended with exit code 4`},
		"signal":    {child + "kill -9 $$", "9"},
		"hang":      {child + "wait", "cut at its timeout of 5s"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newReal(t, forever, block(shell("prestart", tc.command, "timeout = \"5s\"")))
			_, _, err := r.h.StartTask(r.cfg)
			gone(t, r.pid(t, "child"))
			if tc.want == "" {
				must.NoError(t, err)
				must.True(t, alive(t, r.pid(t, "pid")))
				return
			}
			must.ErrorContains(t, err, tc.want)
			must.True(t, structs.IsRecoverable(err))
			_, err = os.Stat(r.local("pid"))
			must.ErrorIs(t, err, os.ErrNotExist)
			_, err = os.Stat(newJournal(r.cfg).path)
			must.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

func TestReal_ProcessEndsDuringReady(t *testing.T) {
	r := newReal(t, "sleep 0.2; exit 5", block(httpHook("ready", "fail", "interval = \"20ms\"\ntimeout = \"1h\"")))
	_, _, err := r.h.StartTask(r.cfg)
	must.ErrorContains(t, err, "it ended with exit code 5")
}

// The task owns its local directory and the plugin is root: whatever links the
// task plants, nothing outside is written.
func TestReal_EventFileStaysInside(t *testing.T) {
	cases := map[string]struct {
		plant   func(t *testing.T, local, outside string)
		refused bool
	}{
		"directory is a link": {func(t *testing.T, local, outside string) {
			must.NoError(t, os.Symlink(outside, filepath.Join(local, "lifecycle")))
		}, true},
		"local is a link": {func(t *testing.T, local, outside string) {
			must.NoError(t, os.Rename(local, local+".old"))
			must.NoError(t, os.Symlink(outside, local))
		}, true},
		"file is a link": {func(t *testing.T, local, outside string) {
			must.NoError(t, os.Mkdir(filepath.Join(local, "lifecycle"), 0o755))
			must.NoError(t, os.Symlink(filepath.Join(outside, "keep"), filepath.Join(local, "lifecycle", "event.json")))
		}, false},
		"temporary file is a link": {func(t *testing.T, local, outside string) {
			must.NoError(t, os.Mkdir(filepath.Join(local, "lifecycle"), 0o755))
			must.NoError(t, os.Symlink(filepath.Join(outside, "keep"), filepath.Join(local, "lifecycle", ".event.json")))
		}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, block("poststart {\n exec {\n command = [\"warm\"]\n }\n}\n"))
			outside := t.TempDir()
			must.NoError(t, os.WriteFile(filepath.Join(outside, "keep"), []byte("mine"), 0o600))
			tc.plant(t, s.cfg.TaskDir().LocalDir, outside)
			_, _, err := s.h.StartTask(s.cfg)
			if tc.refused {
				must.ErrorContains(t, err, "write event.json file")
				must.Eq(t, 0, s.count("exec"))
			} else {
				must.NoError(t, err)
				data, err := os.ReadFile(filepath.Join(s.cfg.TaskDir().LocalDir, "lifecycle", "event.json"))
				must.NoError(t, err)
				must.StrContains(t, string(data), `"event":"poststart"`)
			}
			files, err := os.ReadDir(outside)
			must.NoError(t, err)
			must.Len(t, 1, files)
			data, err := os.ReadFile(filepath.Join(outside, "keep"))
			must.NoError(t, err)
			must.Eq(t, "mine", string(data))
		})
	}
}

// A second plugin process takes up a running task, and its stop runs the hooks
// that the first one was given.
func TestReal_Recover(t *testing.T) {
	r := newReal(t, forever, block(httpHook("prestop", "prestop", ""), httpHook("poststop", "poststop", "")))
	handle, _, err := r.h.StartTask(r.cfg)
	must.NoError(t, err)
	pid := r.pid(t, "pid")

	_, next := newRealDriver(t)
	must.NoError(t, next.RecoverTask(decoded(t, handle)))
	status, err := next.InspectTask(r.cfg.ID)
	must.NoError(t, err)
	must.Eq(t, drivers.TaskStateRunning, status.State)
	must.Eq(t, "running", status.DriverAttributes["lifecycle.state"])
	ch, err := next.WaitTask(t.Context(), r.cfg.ID)
	must.NoError(t, err)
	must.NoError(t, next.StopTask(r.cfg.ID, 10*time.Second, "SIGTERM"))
	must.Eq(t, int(syscall.SIGTERM), wait(t, ch).Signal)
	gone(t, pid)
	must.Eq(t, 1, r.count("hook /prestop"))
	status, err = next.InspectTask(r.cfg.ID)
	must.NoError(t, err)
	must.Eq(t, "stopped", status.DriverAttributes["lifecycle.state"])
	must.NoError(t, next.DestroyTask(r.cfg.ID, false))
}

// A task that stock raw_exec has started is taken up as well.
func TestReal_RecoverStockTask(t *testing.T) {
	r := newReal(t, forever, "")
	stock, _, err := r.d.inner.StartTask(r.cfg.Copy())
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, r.d.inner.DestroyTask(r.cfg.ID, true)) })
	must.Less(t, handleVersion, stock.Version)
	pid := r.pid(t, "pid")

	_, next := newRealDriver(t)
	must.NoError(t, next.RecoverTask(decoded(t, stock)))
	ch, err := next.WaitTask(t.Context(), r.cfg.ID)
	must.NoError(t, err)
	must.NoError(t, next.StopTask(r.cfg.ID, 10*time.Second, "SIGTERM"))
	wait(t, ch)
	gone(t, pid)
	must.NoError(t, next.DestroyTask(r.cfg.ID, false))
}

// The plugin dies between the start of the process and the answer to Nomad.
// Nomad starts the task again: the first process must not stay.
func TestReal_OrphanIsEnded(t *testing.T) {
	r := newReal(t, forever, block(httpHook("poststart", "poststart", "")))
	left := r.cfg.Copy()
	left.ID = r.cfg.AllocID + "/web/0ld"
	handle, _, err := r.d.inner.StartTask(left)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, r.d.inner.DestroyTask(left.ID, true)) })
	must.NoError(t, newJournal(left).started(handle))
	orphan := r.pid(t, "pid")
	must.True(t, alive(t, orphan))
	must.NoError(t, os.Remove(r.local("pid")))

	next, h := newRealDriver(t)
	_, _, err = h.StartTask(r.cfg)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, h.DestroyTask(r.cfg.ID, true)) })
	gone(t, orphan)
	must.True(t, alive(t, r.pid(t, "pid")))
	_, err = next.inner.InspectTask(left.ID)
	must.ErrorIs(t, err, drivers.ErrTaskNotFound)
	_, err = next.WaitTask(t.Context(), r.cfg.ID)
	must.NoError(t, err)
	_, err = os.Stat(newJournal(r.cfg).path)
	must.ErrorIs(t, err, os.ErrNotExist)
}

// The plugin dies in a start, and the allocation never starts again. A new plugin
// ends what was left, and nothing that may still be wanted.
func TestReal_OrphanIsSwept(t *testing.T) {
	self, err := process.Self()
	must.NoError(t, err)
	dead := self
	dead.Start-- // another process that had this number
	cases := map[string]struct {
		writer  process.ID
		driver  string // "": the real one's
		handle  bool   // the inner driver had returned it
		handles bool   // Nomad had the time to hand it over
		ends    bool
	}{
		"without a handle":        {writer: dead, ends: true},
		"with a handle":           {writer: dead, handle: true, handles: true, ends: true},
		"Nomad may know it":       {writer: dead, handle: true},
		"a start that is made":    {writer: self},
		"of another driver's own": {writer: dead, driver: "lifecycle-exec"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newReal(t, forever, block(httpHook("poststart", "poststart", "")))
			handle, _, err := r.d.inner.StartTask(r.cfg)
			must.NoError(t, err)
			t.Cleanup(func() { must.NoError(t, r.d.inner.DestroyTask(r.cfg.ID, true)) })
			j := newJournal(r.cfg)
			must.NoError(t, j.starting(tc.writer, cmp.Or(tc.driver, r.d.name)))
			if tc.handle {
				must.NoError(t, j.started(handle))
			}
			pid := r.pid(t, "pid")
			must.True(t, alive(t, pid))

			next, _ := newRealDriver(t)
			next.sweep(tc.handles)
			_, err = os.Stat(j.path)
			if !tc.ends {
				must.True(t, alive(t, pid))
				must.NoError(t, err)
				return
			}
			gone(t, pid)
			must.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

// `nomad alloc exec` works as with the inner driver.
func TestReal_ExecStreaming(t *testing.T) {
	r := newReal(t, forever, "")
	_, _, err := r.h.StartTask(r.cfg)
	must.NoError(t, err)
	c := execStream(t, r.h.DriverPlugin, r.cfg.ID, []string{"/bin/sh", "-c", "cat; echo $GREETING; echo oh >&2; exit 6"}, "in ")
	must.NoError(t, c.err)
	must.Eq(t, 6, c.code)
	must.Eq(t, "in hello\n", c.stdout)
	must.Eq(t, "oh\n", c.stderr)
}
