package child

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) func(*testing.T) string {
		return func(t *testing.T) string {
			path := filepath.Join(dir, name)
			putScript(t, path, text)
			return path
		}
	}
	mode := func(m string) func(*testing.T) string {
		return func(t *testing.T) string { return newBinary(t, m).path }
	}
	path := func(p string) func(*testing.T) string { return func(*testing.T) string { return p } }
	cases := map[string]struct {
		path func(*testing.T) string
		want string
	}{
		"relative":     {path("fake-driver"), "not an absolute path"},
		"empty":        {path(""), "not an absolute path"},
		"missing":      {path("/nonexistent/driver"), "no such file"},
		"directory":    {path(dir), "a directory"},
		"device":       {path("/dev/null"), "not a regular file"},
		"not runnable": {path("/etc/passwd"), "not executable"},
		"true":         {path("/bin/true"), "ended with exit status 0 instead of answering"},
		"false":        {path("/bin/false"), "ended with exit status 1"},
		"no program":   {script("data", "this is no program\n\x00"), "exec format error"},
		"no interpreter": {
			script("interpreter", "#!/nonexistent/sh\n"), "no such file",
		},
		"says why":       {script("why", "#!/bin/sh\necho no licence found >&2\nexit 4\n"), `ended with exit status 4 instead of answering; is it a driver plugin of Nomad?; it wrote "no licence found"`},
		"talks":          {script("talks", "#!/bin/sh\necho hello\nexec sleep 60\n"), "does not speak as driver plugins of Nomad do: Unrecognized remote plugin message: hello"},
		"old protocol":   {script("core", "#!/bin/sh\necho '9|2|unix|/nonexistent|grpc|'\nexec sleep 60\n"), "incompatible core API version"},
		"not gRPC":       {script("netrpc", "#!/bin/sh\necho '1|2|unix|/nonexistent|netrpc|'\nexec sleep 60\n"), "unsupported plugin protocol"},
		"nobody there":   {script("gone", "#!/bin/sh\necho '1|2|unix|/nonexistent|grpc|'\nexec sleep 60\n"), "ask what it is"},
		"other version":  {mode("other-version"), "incompatible API version"},
		"other cookie":   {mode("other-cookie"), "This binary is a plugin"},
		"other plugin":   {mode("other-plugin"), "it does not tell what it is"},
		"device plugin":  {mode("device"), "is a device plugin, not a driver"},
		"old driver API": {mode("old-api"), "speaks the versions [v0.0.9] of the driver API, not v0.1.0"},
		"nameless":       {mode("nameless"), "without a name"},
		"our own":        {mode("lifecycle"), "is a lifecycle driver itself"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			p := c.path(t)
			d, err := newDriver(t.Context(), p, nil, hclog.NewNullLogger(), testLimits)
			must.ErrorContains(t, err, c.want)
			must.ErrorContains(t, err, p)
			must.Nil(t, d)
			left, err := filepath.Glob(filepath.Join(os.TempDir(), "plugin-dir*"))
			must.NoError(t, err)
			must.SliceEmpty(t, left)
		})
	}
}

func TestHangs(t *testing.T) {
	quick := testLimits
	quick.start = time.Second
	cases := map[string]struct {
		binary func(*testing.T) string
	}{
		"silent": {func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "driver")
			putScript(t, path, "#!/bin/sh\nexec sleep 60\n")
			return path
		}},
		"its descendant holds its output": {func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "driver")
			putScript(t, path, "#!/bin/sh\nsleep 5 &\nexec sleep 60\n")
			return path
		}},
		"does not say what it is": {func(t *testing.T) string { return newBinary(t, "mute").path }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			path := c.binary(t)
			done := make(chan error, 1)
			go func() {
				_, err := newDriver(t.Context(), path, nil, hclog.NewNullLogger(), quick)
				done <- err
			}()
			err := receive(t, "refusal", done)
			must.ErrorContains(t, err, "did not answer within 1s")
			must.ErrorContains(t, err, path)
		})
	}
}

func TestCancelledStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "driver")
	putScript(t, path, "#!/bin/sh\necho $$ > \"$0.pid\"\nexec sleep 60\n")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := newDriver(ctx, path, nil, hclog.NewNullLogger(), testLimits)
		done <- err
	}()
	eventually(t, "start", func() bool { _, err := os.Stat(path + ".pid"); return err == nil })
	cancel()
	must.ErrorIs(t, receive(t, "end", done), context.Canceled)
}

// Everything that Nomad asks of a driver comes to the child and back.
func TestWholeLife(t *testing.T) {
	b := newBinary(t, "driver")
	d, log := b.start(t, testLimits)
	must.Eq(t, "lifecycle-fake", d.Name())

	info, err := d.PluginInfo()
	must.NoError(t, err)
	must.Eq(t, "fake", info.Name)
	must.Eq(t, "1.0.0", info.PluginVersion)
	spec, err := d.ConfigSchema()
	must.NoError(t, err)
	must.MapContainsKey(t, spec.GetObject().GetAttributes(), "word")
	spec, err = d.TaskConfigSchema()
	must.NoError(t, err)
	must.MapContainsKey(t, spec.GetObject().GetAttributes(), "command")
	must.SliceEmpty(t, b.calls(t, "")) // nothing has happened for all that

	must.EqError(t, setConfig(t, d, "bad"), "SetConfig failed: bad word")
	must.NoError(t, setConfig(t, d, "first"))
	must.NoError(t, setConfig(t, d, "second"))
	must.Eq(t, []string{"config first v0.1.0", "config second v0.1.0"}, b.calls(t, "config"))

	caps, err := d.Capabilities()
	must.NoError(t, err)
	must.True(t, caps.Exec)
	must.True(t, caps.MustInitiateNetwork)

	events, err := d.TaskEvents(t.Context())
	must.NoError(t, err)
	cfg := newTask("t", nil)
	must.NoError(t, cfg.EncodeConcreteDriverConfig(map[string]string{"command": "run"}))
	h, network, err := d.StartTask(cfg)
	must.NoError(t, err)
	must.Eq(t, "t", h.Config.ID)
	must.Eq(t, 1, h.Version)
	must.Eq(t, "10.0.0.9", network.IP)
	ev := receive(t, "event", events)
	must.NoError(t, ev.Err)
	must.Eq(t, "started", ev.Message)

	_, err = d.InspectTask("t")
	must.NoError(t, err)
	must.NoError(t, d.SignalTask("t", "SIGHUP"))
	result, err := d.ExecTask("t", []string{"ls", "-l"}, time.Second)
	must.NoError(t, err)
	must.Eq(t, "out", string(result.Stdout))
	must.Eq(t, 2, result.ExitResult.ExitCode)
	stream := &execStream{}
	must.NoError(t, d.ExecTaskStreamingRaw(t.Context(), "t", []string{"sh"}, true, stream))
	must.Eq(t, int32(7), stream.sent[0].Result.ExitCode)
	stats, err := d.TaskStats(t.Context(), "t", time.Second)
	must.NoError(t, err)
	must.NotNil(t, receive(t, "statistics", stats))
	ns, created, err := d.CreateNetwork("a", &drivers.NetworkCreateRequest{Hostname: "web"})
	must.NoError(t, err)
	must.True(t, created)
	must.Eq(t, "web", ns.Labels["hostname"])
	must.NoError(t, d.DestroyNetwork("a", ns))
	_, _, err = d.CreateNetwork("a", nil)
	must.NoError(t, err)

	must.EqError(t, d.DestroyTask("t", false), "cannot destroy running task")
	ch := waitTask(t, d, "t")
	must.NoError(t, d.StopTask("t", time.Second, "SIGINT"))
	must.Eq(t, 143, receive(t, "result", ch).ExitCode)
	must.Eq(t, 143, receive(t, "second result", waitTask(t, d, "t")).ExitCode)
	must.NoError(t, d.DestroyTask("t", false))
	must.MapEmpty(t, d.tasks)
	must.Eq(t, []string{"stop t SIGINT"}, b.calls(t, "stop"))

	// Its log comes at its own level.
	must.StrContains(t, log.String(), "[INFO]  child.fake-driver: started")
	must.StrContains(t, log.String(), "driver plugin started")
}

// execStream sends nothing.
type execStream struct {
	sent []*drivers.ExecTaskStreamingResponseMsg
}

func (s *execStream) Send(m *drivers.ExecTaskStreamingResponseMsg) error {
	s.sent = append(s.sent, m)
	return nil
}

func (s *execStream) Recv() (*drivers.ExecTaskStreamingRequestMsg, error) {
	return nil, io.EOF
}

// Callers compare errors and read their texts; gRPC is not to be seen in them.
func TestErrors(t *testing.T) {
	b := newBinary(t, "driver")
	d, _ := b.start(t, testLimits)

	for name, err := range map[string]error{
		"stop": d.StopTask("x", time.Second, ""), "destroy": d.DestroyTask("x", true), "signal": d.SignalTask("x", "SIGHUP"),
		"stream": d.ExecTaskStreamingRaw(t.Context(), "x", nil, false, &execStream{}),
	} {
		must.ErrorIs(t, err, drivers.ErrTaskNotFound, must.Sprint(name))
	}
	_, err := d.InspectTask("x")
	must.ErrorIs(t, err, drivers.ErrTaskNotFound)
	_, err = d.ExecTask("x", nil, time.Second)
	must.ErrorIs(t, err, drivers.ErrTaskNotFound)
	must.ErrorIs(t, receive(t, "result", waitTask(t, d, "x")).Err, drivers.ErrTaskNotFound)

	_, _, err = d.StartTask(newTask("x", map[string]string{"fail": "recoverable"}))
	must.EqError(t, err, "try again")
	must.True(t, structs.IsRecoverable(err))
	_, _, err = d.StartTask(newTask("x", map[string]string{"fail": "hard"}))
	must.EqError(t, err, "never")
	must.False(t, structs.IsRecoverable(err))
	must.MapEmpty(t, d.tasks)

	must.Error(t, d.RecoverTask(nil))
	must.Error(t, d.RecoverTask(&drivers.TaskHandle{}))
	h := drivers.NewTaskHandle(1)
	h.Config = newTask("x", nil)
	must.NoError(t, h.SetDriverState(&struct{ File string }{"/nonexistent"}))
	must.EqError(t, d.RecoverTask(h), "stat /nonexistent: no such file or directory")
	must.MapEmpty(t, d.tasks)

	// A driver that leaves the task's configuration out of its handle.
	must.Eq(t, "y", startTask(t, d, "y", map[string]string{"bare": "yes"}).Config.ID)
}

// Drivers pass on errors of what they are clients of. They look like the end of
// the driver, and are not.
func TestBorrowedErrors(t *testing.T) {
	b := newBinary(t, "driver")
	d, _ := b.start(t, testLimits)
	before := d.child(t)
	_, _, err := d.StartTask(newTask("x", map[string]string{"fail": "unavailable"}))
	must.EqError(t, err, "rpc error: code = Unavailable desc = no engine")
	_, _, err = d.StartTask(newTask("x", map[string]string{"fail": "canceled"}))
	must.ErrorContains(t, err, "context canceled")
	must.Eq(t, before, d.child(t))
}

func TestPlain(t *testing.T) {
	cases := map[string]struct {
		err  error
		want string
		is   error
	}{
		"not of gRPC":    {err: errors.New("x"), want: "x"},
		"unknown":        {err: status.Error(codes.Unknown, "x: y"), want: "x: y"},
		"another code":   {err: status.Error(codes.Unimplemented, "x"), want: "rpc error: code = Unimplemented desc = x"},
		"not found":      {err: status.Error(codes.Unknown, "task not found for given id"), want: "task not found for given id", is: drivers.ErrTaskNotFound},
		"not found, too": {err: status.Error(codes.Unknown, "stop: task not found for given id"), want: "task not found for given id", is: drivers.ErrTaskNotFound},
		"other finding":  {err: status.Error(codes.Unknown, "task not found for given id, sir"), want: "task not found for given id, sir"},
		"recoverable":    {err: structs.NewRecoverableError(status.Error(codes.FailedPrecondition, "a desc = b"), true), want: "a desc = b"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := plain(c.err)
			must.EqError(t, err, c.want)
			must.Eq(t, structs.IsRecoverable(c.err), structs.IsRecoverable(err))
			if c.is != nil {
				must.ErrorIs(t, err, c.is)
			}
		})
	}
	must.NoError(t, plain(nil))
}

func TestClose(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	b := newBinary(t, "driver")
	d, _ := b.start(t, testLimits)
	pid := d.child(t).proc.pid()
	startTask(t, d, "t", nil)
	ch := waitTask(t, d, "t")
	fps, err := d.Fingerprint(t.Context())
	must.NoError(t, err)
	receive(t, "fingerprint", fps)
	d.Close()
	must.False(t, alive(pid))
	_, ok := <-ch
	must.False(t, ok) // the task has not ended
	for range fps {
		continue
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "plugin*"))
	must.NoError(t, err)
	must.SliceEmpty(t, left)

	d.Close()
	must.ErrorContains(t, d.StopTask("t", time.Second, ""), b.path)
	_, err = d.WaitTask(t.Context(), "t")
	must.ErrorContains(t, err, b.path)
	info, err := d.PluginInfo()
	must.NoError(t, err)
	must.Eq(t, "fake", info.Name)
}

// A child that is stopped cannot end in good order.
func TestCloseHung(t *testing.T) {
	b := newBinary(t, "driver")
	d, _ := b.start(t, testLimits)
	p := d.child(t).proc
	must.NoError(t, p.proc.Signal(stopSignal))
	done := make(chan struct{})
	go func() { d.Close(); close(done) }()
	receive(t, "end", done)
	must.False(t, alive(p.pid()))
}

func TestEnviron(t *testing.T) {
	must.Eq(t, []string{"PATH=/bin", "PLUGIN_OWN=1", "NOMAD_PLUGIN_MAGIC_COOKIE=x"}, environ([]string{
		"PATH=/bin", "PLUGIN_CLIENT_CERT=x", "PLUGIN_MIN_PORT=1", "PLUGIN_OWN=1", "PLUGIN_MULTIPLEX_GRPC=true",
		"PLUGIN_UNIX_SOCKET_DIR=/tmp", "NOMAD_PLUGIN_MAGIC_COOKIE=x", "PLUGIN_PROTOCOL_VERSIONS=2",
	}))
}

func TestTail(t *testing.T) {
	var l tail
	for range 1000 {
		_, err := l.Write([]byte("0123456789\n"))
		must.NoError(t, err)
	}
	must.LessEq(t, maxTail, len(l.String()))
	must.True(t, strings.HasSuffix(l.String(), "0123456789"))
}
