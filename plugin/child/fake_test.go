package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"
	"github.com/shoenig/test/must"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	modeKey    = "CHILD_TEST_MODE" // what the test binary is, if not a test
	dirKey     = "CHILD_TEST_DIR"  // where the fake driver's tasks live
	versionKey = "CHILD_TEST_VERSION"
	nameKey    = "CHILD_TEST_NAME"
	pathKey    = "CHILD_TEST_PATH" // the plugin that mode parent starts
)

// serveMode is what the test binary does as a child.
func serveMode(mode string) {
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, JSONFormat: true})
	f := newFake(os.Getenv(dirKey), logger)
	switch mode {
	case "driver":
		drivers.Serve(f, logger)
	case "device":
		f.info.Type = base.PluginTypeDevice
		drivers.Serve(f, logger)
	case "old-api":
		f.info.PluginApiVersions = []string{"v0.0.9"}
		drivers.Serve(f, logger)
	case "nameless":
		f.info.Name = ""
		drivers.Serve(f, logger)
	case "lifecycle":
		f.schema["lifecycle"] = hclspec.NewBlock("lifecycle", false, hclspec.NewObject(map[string]*hclspec.Spec{
			"stop_after": hclspec.NewAttr("stop_after", "list(string)", false),
		}))
		drivers.Serve(f, logger)
	case "mute": // speaks, but does not say what it is
		f.block = true
		drivers.Serve(f, logger)
	case "other-plugin": // a go-plugin plugin of Nomad's handshake that is none of Nomad's
		serve(base.Handshake, map[string]plugin.Plugin{"device": &device.PluginDevice{}}, logger)
	case "other-version":
		h := base.Handshake
		h.ProtocolVersion = 1
		serve(h, driverPlugins(f, logger), logger)
	case "other-cookie":
		h := base.Handshake
		h.MagicCookieValue = "another"
		serve(h, driverPlugins(f, logger), logger)
	case "parent":
		runParent()
	default:
		fmt.Fprintln(os.Stderr, "unknown mode", mode)
		os.Exit(3)
	}
}

func driverPlugins(f *fake, logger hclog.Logger) map[string]plugin.Plugin {
	return map[string]plugin.Plugin{
		base.PluginTypeBase: &base.PluginBase{Impl: f}, base.PluginTypeDriver: drivers.NewDriverPlugin(f, logger),
	}
}

func serve(h plugin.HandshakeConfig, plugins map[string]plugin.Plugin, logger hclog.Logger) {
	plugin.Serve(&plugin.ServeConfig{HandshakeConfig: h, Plugins: plugins, GRPCServer: plugin.DefaultGRPCServer, Logger: logger})
}

// runParent is a process with a child, for tests that kill it.
func runParent() {
	d, err := newDriver(context.Background(), os.Getenv(pathKey), nil, hclog.NewNullLogger(), testLimits)
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	if _, _, err := d.StartTask(newTask("t", map[string]string{"process": "yes"})); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	<-make(chan struct{}) // until it is killed
}

// fake is a driver whose tasks are files, which is why they survive it: a task
// runs as long as its file is empty; then it holds how the task ended. The
// task's environment says what else is to happen:
//
//	die=start|started|stop|wait|destroy|inspect   the driver kills itself there, once
//	die=recover   always
//	unrecoverable, hang, process, recoverable   see below
type fake struct {
	dir    string
	logger hclog.Logger
	info   base.PluginInfoResponse
	schema map[string]*hclspec.Spec
	block  bool
	events chan *drivers.TaskEvent
}

func newFake(dir string, logger hclog.Logger) *fake {
	name := os.Getenv(nameKey)
	if name == "" {
		name = "fake"
	}
	return &fake{
		dir: dir, logger: logger, events: make(chan *drivers.TaskEvent, 1),
		info: base.PluginInfoResponse{
			Type: base.PluginTypeDriver, Name: name, PluginVersion: os.Getenv(versionKey),
			PluginApiVersions: []string{"0.1.0"},
		},
		schema: map[string]*hclspec.Spec{"command": hclspec.NewAttr("command", "string", false)},
	}
}

// note writes a line to what happened, over all children.
func (f *fake) note(format string, args ...any) {
	file, err := os.OpenFile(filepath.Join(f.dir, "calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintf(file, format+"\n", args...)
	}
	if err := errors.Join(err, file.Close()); err != nil {
		panic(err)
	}
}

func (f *fake) file(id string) string {
	return filepath.Join(f.dir, strings.ReplaceAll(id, "/", "_")+".task")
}

// die ends the process if the task's environment wants it here.
func (f *fake) die(cfg *drivers.TaskConfig, where string) {
	if cfg.Env["die"] != where {
		return
	}
	marker := f.file(cfg.ID) + ".died"
	if where != "recover" {
		if _, err := os.Stat(marker); err == nil {
			return
		}
	}
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		panic(err)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	<-make(chan struct{})
}

func (f *fake) PluginInfo() (*base.PluginInfoResponse, error) {
	if f.block {
		<-make(chan struct{})
	}
	info := f.info
	return &info, nil
}

func (f *fake) ConfigSchema() (*hclspec.Spec, error) {
	return hclspec.NewObject(map[string]*hclspec.Spec{"word": hclspec.NewAttr("word", "string", false)}), nil
}

func (f *fake) SetConfig(c *base.Config) error {
	var own struct {
		Word string `codec:"word"`
	}
	if err := base.MsgPackDecode(c.PluginConfig, &own); err != nil {
		return err
	}
	if own.Word == "bad" {
		return errors.New("bad word")
	}
	f.note("config %s %s", own.Word, c.ApiVersion)
	return nil
}

func (f *fake) TaskConfigSchema() (*hclspec.Spec, error) { return hclspec.NewObject(f.schema), nil }

func (f *fake) Capabilities() (*drivers.Capabilities, error) {
	return &drivers.Capabilities{Exec: true, SendSignals: true, MustInitiateNetwork: true, FSIsolation: fsisolation.Image}, nil
}

func (f *fake) Fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	ch := make(chan *drivers.Fingerprint)
	go func() {
		defer close(ch)
		for {
			fp := &drivers.Fingerprint{
				Health: drivers.HealthStateHealthy, HealthDescription: "fine",
				Attributes: map[string]*pstructs.Attribute{"driver.fake": pstructs.NewBoolAttribute(true)},
			}
			if _, err := os.Stat(filepath.Join(f.dir, "sick")); err == nil {
				fp = &drivers.Fingerprint{Err: errors.New("sick")}
			}
			select {
			case ch <- fp:
			case <-ctx.Done():
				return
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	}()
	return ch, nil
}

// known makes the driver know the task; each child has to be told again.
func (f *fake) known(cfg *drivers.TaskConfig) error {
	data, err := json.Marshal(cfg.Env)
	if err != nil {
		return err
	}
	return os.WriteFile(fmt.Sprintf("%s.%d", f.file(cfg.ID), os.Getpid()), data, 0o600)
}

func (f *fake) task(id string) (*drivers.TaskConfig, error) {
	data, err := os.ReadFile(fmt.Sprintf("%s.%d", f.file(id), os.Getpid()))
	if errors.Is(err, os.ErrNotExist) {
		return nil, drivers.ErrTaskNotFound
	}
	cfg := &drivers.TaskConfig{ID: id}
	return cfg, errors.Join(err, json.Unmarshal(data, &cfg.Env))
}

func (f *fake) StartTask(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	f.note("start %s", cfg.ID)
	f.die(cfg, "start")
	switch cfg.Env["fail"] {
	case "recoverable":
		return nil, nil, structs.NewRecoverableError(errors.New("try again"), true)
	case "unavailable":
		return nil, nil, status.Error(codes.Unavailable, "no engine")
	case "canceled":
		return nil, nil, context.Canceled
	case "hard":
		return nil, nil, errors.New("never")
	}
	if cfg.Env["process"] != "" {
		// What the child starts is in a session of its own, like an executor.
		cmd := exec.Command("/bin/sleep", "60")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return nil, nil, err
		}
		if err := os.WriteFile(filepath.Join(f.dir, "process"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
			return nil, nil, err
		}
	}
	if err := errors.Join(os.WriteFile(f.file(cfg.ID), nil, 0o600), f.known(cfg)); err != nil {
		return nil, nil, err
	}
	f.die(cfg, "started")
	f.logger.Info("started", "task_id", cfg.ID)
	h := drivers.NewTaskHandle(1)
	h.Config, h.State = cfg, drivers.TaskStateRunning
	if cfg.Env["bare"] != "" {
		h.Config = nil
	}
	f.emit(cfg.ID, "started")
	return h, &drivers.DriverNetwork{IP: "10.0.0.9", PortMap: map[string]int{"http": 80}}, h.SetDriverState(&struct{ File string }{f.file(cfg.ID)})
}

func (f *fake) emit(id, message string) {
	select {
	case f.events <- &drivers.TaskEvent{TaskID: id, AllocID: "a", TaskName: id, Timestamp: time.Now(), Message: message}:
	default: // nobody listens
	}
}

func (f *fake) RecoverTask(h *drivers.TaskHandle) error {
	var state struct{ File string }
	if err := h.GetDriverState(&state); err != nil {
		return err
	}
	f.note("recover %s", h.Config.ID)
	f.die(h.Config, "recover")
	switch {
	case h.Config.Env["hang"] != "":
		<-make(chan struct{})
	case h.Config.Env["unrecoverable"] != "":
		return errors.New("no such executor")
	}
	if _, err := os.Stat(state.File); err != nil {
		return err
	}
	f.emit(h.Config.ID, "recovered")
	return f.known(h.Config)
}

func (f *fake) WaitTask(ctx context.Context, id string) (<-chan *drivers.ExitResult, error) {
	cfg, err := f.task(id)
	if err != nil {
		return nil, err
	}
	ch := make(chan *drivers.ExitResult, 1)
	go func() {
		f.die(cfg, "wait")
		for {
			data, err := os.ReadFile(f.file(id))
			if err != nil {
				ch <- &drivers.ExitResult{ExitCode: -1, Err: errors.New("task is not there any more")}
				return
			}
			if len(data) > 0 {
				code, err := strconv.Atoi(string(data))
				ch <- &drivers.ExitResult{ExitCode: code, Err: err}
				return
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	}()
	return ch, nil
}

// end gives the task an exit code, once and for all.
func (f *fake) end(id string, code int) error {
	data, err := os.ReadFile(f.file(id))
	if err != nil || len(data) > 0 {
		return err
	}
	tmp := f.file(id) + ".tmp"
	return errors.Join(os.WriteFile(tmp, []byte(strconv.Itoa(code)), 0o600), os.Rename(tmp, f.file(id)))
}

func (f *fake) StopTask(id string, timeout time.Duration, signal string) error {
	cfg, err := f.task(id)
	if err != nil {
		return err
	}
	f.note("stop %s %s", id, signal)
	f.die(cfg, "stop")
	return f.end(id, 143)
}

func (f *fake) DestroyTask(id string, force bool) error {
	cfg, err := f.task(id)
	if err != nil {
		return fmt.Errorf("destroy: %w", err)
	}
	f.die(cfg, "destroy")
	if data, err := os.ReadFile(f.file(id)); err == nil && len(data) == 0 && !force {
		return errors.New("cannot destroy running task")
	}
	f.note("destroy %s", id)
	return errors.Join(f.end(id, 137), os.Remove(fmt.Sprintf("%s.%d", f.file(id), os.Getpid())))
}

func (f *fake) InspectTask(id string) (*drivers.TaskStatus, error) {
	cfg, err := f.task(id)
	if err != nil {
		return nil, err
	}
	f.die(cfg, "inspect")
	return &drivers.TaskStatus{ID: id, State: drivers.TaskStateRunning, ExitResult: &drivers.ExitResult{}, NetworkOverride: &drivers.DriverNetwork{}}, nil
}

func (f *fake) TaskStats(ctx context.Context, id string, _ time.Duration) (<-chan *drivers.TaskResourceUsage, error) {
	if _, err := f.task(id); err != nil {
		return nil, err
	}
	ch := make(chan *drivers.TaskResourceUsage)
	go func() {
		defer close(ch)
		for {
			u := &drivers.TaskResourceUsage{ResourceUsage: &drivers.ResourceUsage{
				CpuStats: &drivers.CpuStats{}, MemoryStats: &drivers.MemoryStats{},
			}}
			select {
			case ch <- u:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ch, nil
}

func (f *fake) TaskEvents(ctx context.Context) (<-chan *drivers.TaskEvent, error) {
	ch := make(chan *drivers.TaskEvent)
	go func() {
		defer close(ch)
		for {
			select {
			case ev := <-f.events:
				select {
				case ch <- ev:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return ch, nil
}

func (f *fake) SignalTask(id, signal string) error {
	if _, err := f.task(id); err != nil {
		return err
	}
	f.note("signal %s %s", id, signal)
	return nil
}

func (f *fake) ExecTask(id string, command []string, _ time.Duration) (*drivers.ExecTaskResult, error) {
	cfg, err := f.task(id)
	if err != nil {
		return nil, err
	}
	f.note("exec %s %s", id, strings.Join(command, " "))
	f.die(cfg, "exec")
	return &drivers.ExecTaskResult{Stdout: []byte("out"), ExitResult: &drivers.ExitResult{ExitCode: 2}}, nil
}

func (f *fake) ExecTaskStreamingRaw(_ context.Context, id string, command []string, _ bool, stream drivers.ExecTaskStream) error {
	if _, err := f.task(id); err != nil {
		return err
	}
	f.note("stream %s %s", id, strings.Join(command, " "))
	return stream.Send(drivers.NewExecStreamingResponseExit(7))
}

func (f *fake) CreateNetwork(allocID string, req *drivers.NetworkCreateRequest) (*drivers.NetworkIsolationSpec, bool, error) {
	return &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: "/netns/" + allocID, Labels: map[string]string{"hostname": req.Hostname}}, true, nil
}

func (f *fake) DestroyNetwork(allocID string, spec *drivers.NetworkIsolationSpec) error {
	f.note("destroy network %s %s", allocID, spec.Path)
	return nil
}

// newTask describes a task whose environment tells the fake what to do.
func newTask(id string, env map[string]string) *drivers.TaskConfig {
	return &drivers.TaskConfig{ID: id, AllocID: "a", Name: id, AllocDir: "/nonexistent", Env: env, Resources: &drivers.Resources{
		NomadResources: &structs.AllocatedTaskResources{}, LinuxResources: &drivers.LinuxResources{},
	}}
}

// binary is a plugin file that runs this test binary in a mode.
type binary struct {
	path string
	dir  string // the fake driver's
}

func newBinary(t *testing.T, mode string) *binary {
	t.Helper()
	b := &binary{path: filepath.Join(t.TempDir(), "fake-driver"), dir: t.TempDir()}
	b.write(t, mode, "1.0.0", "fake")
	return b
}

// write puts a version of the plugin into place, as an upgrade does: by rename.
func (b *binary) write(t *testing.T, mode, version, name string) {
	t.Helper()
	self, err := os.Executable()
	must.NoError(t, err)
	script := fmt.Sprintf("#!/bin/sh\nexport GORACE=atexit_sleep_ms=0 %s=%s %s=%s %s=%s %s=%s\nexec %s \"$@\"\n",
		modeKey, mode, dirKey, b.dir, versionKey, version, nameKey, name, self)
	putScript(t, b.path, script)
}

// putScript makes an executable file. It is written by another process: a file
// that this one has open for writing while it forks cannot be executed for as
// long as the copy of the descriptor lives.
func putScript(t *testing.T, path, script string) {
	t.Helper()
	tmp := path + ".new"
	cmd := exec.Command("/bin/sh", "-c", `cat > "$0" && chmod 755 "$0"`, tmp)
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
	must.NoError(t, os.Rename(tmp, path))
}

// calls are the lines that children of the binary have noted with the given
// beginning.
func (b *binary) calls(t *testing.T, prefix string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(b.dir, "calls"))
	if !errors.Is(err, os.ErrNotExist) {
		must.NoError(t, err)
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, prefix) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// finish ends a task's "process" with the given code.
func (b *binary) finish(t *testing.T, id string, code int) {
	t.Helper()
	f := &fake{dir: b.dir}
	must.NoError(t, f.end(id, code))
}
