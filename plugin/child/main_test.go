package child

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv(modeKey); mode != "" {
		serveMode(mode)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for something that happens at once unless
// the code is broken. No test measures it.
const patience = 30 * time.Second

// testLimits are those of production, but for the pauses.
var testLimits = limits{
	start: 20 * time.Second, stop: time.Second, gap: patience, recovery: patience,
	pauseMin: 10 * time.Millisecond, pauseMax: 100 * time.Millisecond, steady: time.Minute,
	again: 50 * time.Millisecond,
}

// lines is a log that is kept.
type lines struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lines) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: l})
}

// start runs the binary under a driver that ends with the test. The log is
// shown if the test fails.
func (b *binary) start(t *testing.T, limits limits) (*Driver, *lines) {
	t.Helper()
	log := &lines{}
	d, err := newDriver(t.Context(), b.path, nil, log.logger(), limits)
	must.NoError(t, err)
	t.Cleanup(func() {
		d.Close()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return d, log
}

// setConfig configures the driver as Nomad does.
func setConfig(t *testing.T, d drivers.DriverPlugin, word string) error {
	t.Helper()
	c := &base.Config{ApiVersion: drivers.ApiVersion010, AgentConfig: &base.AgentConfig{}}
	must.NoError(t, base.MsgPackEncode(&c.PluginConfig, map[string]any{"word": word}))
	return d.SetConfig(c)
}

// child is the process that the driver asks now.
func (d *Driver) child(t *testing.T) *session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := d.await(ctx, "", 0)
	must.NoError(t, err)
	return s
}

// crash kills the child, and returns when the driver knows.
func (d *Driver) crash(t *testing.T) {
	t.Helper()
	s := d.child(t)
	must.NoError(t, syscall.Kill(s.proc.pid(), syscall.SIGKILL))
	receive(t, "end of the child", s.gone)
}

// receive returns what comes soon.
func receive[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("not in time: %s", what)
		panic("unreachable")
	}
}

// until receives until a value is wanted.
func until[T any](t *testing.T, what string, ch <-chan *T, wanted func(*T) bool) *T {
	t.Helper()
	for {
		v := receive(t, what, ch)
		must.NotNil(t, v, must.Sprint(what))
		if wanted(v) {
			return v
		}
	}
}

// eventually polls until ok is true, for states that nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func waitTask(t *testing.T, d *Driver, id string) <-chan *drivers.ExitResult {
	t.Helper()
	ch, err := d.WaitTask(t.Context(), id)
	must.NoError(t, err)
	return ch
}

func startTask(t *testing.T, d *Driver, id string, env map[string]string) *drivers.TaskHandle {
	t.Helper()
	h, _, err := d.StartTask(newTask(id, env))
	must.NoError(t, err)
	return h
}

// alive reports whether a process runs. One that nobody has waited for does not.
func alive(pid int) bool {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(string(data), ") ")
	return ok && !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func sprintf(format string, args ...any) must.Setting {
	return must.Sprint(fmt.Sprintf(format, args...))
}
