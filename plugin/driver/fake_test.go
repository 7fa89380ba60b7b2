package driver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"
	dtestutil "github.com/hashicorp/nomad/plugins/drivers/testutils"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
)

// script is what happens, in order: calls of the inner driver and hooks that
// were asked for.
type script struct {
	mu    sync.Mutex // guards the fields below
	lines []string
	heard map[string][]hook.Event // what hooks were told, by path
}

// told returns what the hook at a path was told the first time.
func (s *script) told(t *testing.T, path string) hook.Event {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	must.Positive(t, len(s.heard[path]), must.Sprintf("%s was not asked", path))
	return s.heard[path][0]
}

func (s *script) hear(path string, body []byte) {
	var ev hook.Event
	if json.Unmarshal(body, &ev) != nil {
		return // of a hook whose request has no event
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard == nil {
		s.heard = make(map[string][]hook.Event)
	}
	s.heard[path] = append(s.heard[path], ev)
}

func (s *script) add(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

func (s *script) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.lines...)
}

func (s *script) count(prefix string) int {
	n := 0
	for _, line := range s.all() {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

// fake is an inner driver without processes. Its functions may be replaced
// before it is used.
type fake struct {
	dtestutil.MockDriver
	*script
	caps   drivers.Capabilities
	events chan *drivers.TaskEvent
	named  bool // lines begin with the task's name

	mu    sync.Mutex // guards tasks
	tasks map[string]*fakeTask
}

type fakeTask struct {
	cfg   *drivers.TaskConfig
	end   sync.Once
	ended chan struct{}
	// result is how the process ended; nil closes the wait without one.
	result *drivers.ExitResult
}

var fakeSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"command": hclspec.NewAttr("command", "string", false),
	"args":    hclspec.NewAttr("args", "list(string)", false),
})

func newFake() *fake {
	f := &fake{
		script: &script{}, tasks: make(map[string]*fakeTask), events: make(chan *drivers.TaskEvent),
		caps: drivers.Capabilities{
			SendSignals: true, Exec: true, FSIsolation: fsisolation.Image,
			NetIsolationModes: []drivers.NetIsolationMode{drivers.NetIsolationModeHost, drivers.NetIsolationModeGroup},
		},
	}
	f.PluginInfoF = base.StaticInfo(&base.PluginInfoResponse{Type: base.PluginTypeDriver, Name: "fake", PluginVersion: "9.9.9"})
	f.ConfigSchemaF = base.StaticConfigSchema(fakeSpec)
	f.SetConfigF = func(*base.Config) error { return nil }
	f.TaskConfigSchemaF = func() (*hclspec.Spec, error) { return fakeSpec, nil }
	f.CapabilitiesF = func() (*drivers.Capabilities, error) { return &f.caps, nil }
	f.FingerprintF = f.fingerprint
	f.StartTaskF = f.start
	f.RecoverTaskF = f.recover
	f.WaitTaskF = f.wait
	f.StopTaskF = f.stop
	f.DestroyTaskF = f.destroy
	f.InspectTaskF = func(id string) (*drivers.TaskStatus, error) { return &drivers.TaskStatus{ID: id}, nil }
	f.SignalTaskF = func(_, signal string) error { f.add("signal %s", signal); return nil }
	f.TaskEventsF = func(context.Context) (<-chan *drivers.TaskEvent, error) { return f.events, nil }
	f.ExecTaskF = func(_ string, cmd []string, _ time.Duration) (*drivers.ExecTaskResult, error) {
		f.add("exec %s", strings.Join(cmd, " "))
		return &drivers.ExecTaskResult{ExitResult: &drivers.ExitResult{}}, nil
	}
	return f
}

// factory serves the fake as an inner driver.
func (f *fake) factory(context.Context, hclog.Logger) drivers.DriverPlugin { return f }

func (f *fake) task(id string) (*fakeTask, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, ok := f.tasks[id]
	if !ok {
		return nil, drivers.ErrTaskNotFound
	}
	return t, nil
}

// only returns the one task that there is.
func (f *fake) only(t *testing.T) *fakeTask {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	must.MapLen(t, 1, f.tasks)
	for _, task := range f.tasks {
		return task
	}
	return nil
}

func (f *fake) size() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.tasks)
}

func (ft *fakeTask) finish(r *drivers.ExitResult) {
	ft.end.Do(func() { ft.result = r; close(ft.ended) })
}

func (f *fake) fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	ch := make(chan *drivers.Fingerprint)
	go func() {
		defer close(ch)
		select {
		case ch <- &drivers.Fingerprint{
			Health: drivers.HealthStateHealthy, HealthDescription: "fine",
			Attributes: map[string]*pstructs.Attribute{
				"driver.fake":         pstructs.NewBoolAttribute(true),
				"driver.fake.version": pstructs.NewStringAttribute("3"),
				"driver.faker":        pstructs.NewStringAttribute("another's"),
				"unique.hostname":     pstructs.NewStringAttribute("a"),
			},
		}:
		case <-ctx.Done():
		}
		<-ctx.Done()
	}()
	return ch, nil
}

func (f *fake) put(cfg *drivers.TaskConfig) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tasks[cfg.ID] = &fakeTask{cfg: cfg, ended: make(chan struct{})}
}

// say is add with the task's name, if it matters.
func (f *fake) say(cfg *drivers.TaskConfig, format string, args ...any) {
	if f.named {
		format = cfg.Name + " " + format
	}
	f.add(format, args...)
}

func (f *fake) start(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	f.say(cfg, "start")
	f.put(cfg)
	h := drivers.NewTaskHandle(1)
	h.Config, h.State = cfg, drivers.TaskStateRunning
	if err := h.SetDriverState(&struct{ Pid int }{42}); err != nil {
		return nil, nil, err
	}
	return h, &drivers.DriverNetwork{IP: "10.0.0.9", PortMap: map[string]int{}}, nil
}

func (f *fake) recover(h *drivers.TaskHandle) error {
	var state struct{ Pid int }
	if err := h.GetDriverState(&state); err != nil {
		return err
	}
	f.add("recover version %d pid %d", h.Version, state.Pid)
	f.put(h.Config)
	return nil
}

func (f *fake) wait(ctx context.Context, id string) (<-chan *drivers.ExitResult, error) {
	task, err := f.task(id)
	if err != nil {
		return nil, err
	}
	ch := make(chan *drivers.ExitResult, 1)
	go func() {
		defer close(ch)
		select {
		case <-task.ended:
			if task.result != nil {
				ch <- task.result
			}
		case <-ctx.Done():
		}
	}()
	return ch, nil
}

func (f *fake) stop(id string, timeout time.Duration, signal string) error {
	task, err := f.task(id)
	if err != nil {
		return err
	}
	f.say(task.cfg, "stop %s", signal)
	task.finish(&drivers.ExitResult{ExitCode: 143, Signal: 15})
	return nil
}

func (f *fake) destroy(id string, force bool) error {
	task, err := f.task(id)
	if err != nil {
		return err
	}
	f.say(task.cfg, "destroy force=%t", force)
	task.finish(&drivers.ExitResult{ExitCode: 137, Signal: 9})
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.tasks, id)
	return nil
}

// hookServer writes every request into the script as "hook <path>". A path that
// begins with /fail is answered with 500, one that begins with /hang not at all.
func hookServer(t *testing.T, s *script) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// To its end: a client's leaving is noticed only then.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // it has left
		}
		s.hear(r.URL.Path, body)
		s.add("hook %s", r.URL.Path)
		if strings.HasPrefix(r.URL.Path, "/fail") {
			w.WriteHeader(http.StatusInternalServerError)
		}
		if strings.HasPrefix(r.URL.Path, "/hang") {
			<-r.Context().Done()
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// setup is a decorated fake behind gRPC, and a task whose config is text with
// URL replaced by a hook server's address.
type setup struct {
	*fake
	d   *Driver
	h   drivers.DriverPlugin // d behind gRPC
	cfg *drivers.TaskConfig
	url string
}

func newSetup(t *testing.T, text string) *setup {
	t.Helper()
	f := newFake()
	d := decorate(t, "lifecycle-fake", f.factory)
	s := &setup{fake: f, d: d, h: harness(t, d), cfg: newTaskConfig(t), url: hookServer(t, f.script)}
	s.configure(t, text)
	return s
}

// newSetupWith is newSetup with a Nomad that knows the task's allocation.
func newSetupWith(t *testing.T, text string) (*setup, *fakeNomad) {
	t.Helper()
	n := newNomad(t)
	s := newSetup(t, text)
	must.NoError(t, configureAgent(t, s.d, n.agent("")))
	n.run(t, s.cfg, shop(t))
	return s, n
}

func (s *setup) configure(t *testing.T, text string) {
	t.Helper()
	setConfig(t, s.d, s.cfg, strings.ReplaceAll(text, "URL", s.url))
}

func (s *setup) start(t *testing.T) *drivers.TaskHandle {
	t.Helper()
	handle, _, err := s.h.StartTask(s.cfg)
	must.NoError(t, err)
	return handle
}

func (s *setup) waitTask(t *testing.T) <-chan *drivers.ExitResult {
	t.Helper()
	ch, err := s.h.WaitTask(t.Context(), s.cfg.ID)
	must.NoError(t, err)
	return ch
}

// forgotten says that nothing is left of the task.
func (s *setup) forgotten(t *testing.T) {
	t.Helper()
	_, err := s.d.task(s.cfg.ID)
	must.ErrorIs(t, err, drivers.ErrTaskNotFound)
	must.Eq(t, 0, s.size())
	_, err = os.Stat(newJournal(s.cfg).path)
	must.ErrorIs(t, err, os.ErrNotExist)
}
