package child

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// blockName is what a lifecycle driver adds to the configuration of the tasks
// of the driver that it decorates.
const blockName = "lifecycle"

// session is one child process that has shown to be a driver.
type session struct {
	proc   *process
	client *plugin.Client
	conn   *plugin.GRPCClient
	driver drivers.DriverPlugin
	info   *base.PluginInfoResponse
	file   fs.FileInfo // of the binary, as it was when it was started

	gone chan struct{} // closed when the driver has stopped using the session
	note sync.Once     // for saying once that the file was replaced
}

// checkFile returns what is known of the binary, or why it cannot be one.
func checkFile(path string) (fs.FileInfo, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("driver plugin %q: not an absolute path; the plugin's working directory is Nomad's affair", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("driver plugin: %w", err)
	}
	switch {
	case info.IsDir():
		return nil, fmt.Errorf("driver plugin %s: a directory; name the file of the plugin", path)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("driver plugin %s: not a regular file", path)
	case info.Mode()&0o111 == 0:
		return nil, fmt.Errorf("driver plugin %s: not executable; chmod it to 755", path)
	}
	return info, nil
}

// open starts a child and makes sure that it is a driver which can be
// decorated. All of it takes at most the start limit. It has to be called on
// the goroutine that process.Start asks for.
func (d *Driver) open() (*session, error) {
	file, err := checkFile(d.path)
	if err != nil {
		return nil, err
	}
	p, said := newProcess(d.path, d.args), &tail{}
	s := &session{proc: p, file: file, gone: make(chan struct{})}
	s.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: base.Handshake,
		Plugins: map[string]plugin.Plugin{
			base.PluginTypeBase:   &base.PluginBase{},
			base.PluginTypeDriver: drivers.NewDriverPlugin(nil, d.logger),
		},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
			p.env = append(environ(os.Environ()), cmd.Env...)
			return p, nil
		},
		SkipHostEnv:      true, // RunnerFunc chooses from it
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		StartTimeout:     2 * d.limits.start, // the limit below comes first
		Logger:           d.logger,
		Stderr:           said,
	})
	var late atomic.Bool
	limit := time.AfterFunc(d.limits.start, func() {
		late.Store(true)
		p.kill()
	})
	defer limit.Stop()
	defer context.AfterFunc(d.ctx, p.kill)()

	if err := d.meet(s); err != nil {
		p.kill()
		s.close(0)
		return nil, d.describe(p, said, late.Load(), err)
	}
	return s, nil
}

// meet is what is said between the start of a child and its first task.
func (d *Driver) meet(s *session) error {
	client, err := s.client.Client()
	if err != nil {
		return &handshakeError{err}
	}
	conn, ok := client.(*plugin.GRPCClient)
	if !ok {
		return fmt.Errorf("speaks %T instead of gRPC", client)
	}
	s.conn = conn
	raw, err := client.Dispense(base.PluginTypeDriver)
	if err != nil {
		return err
	}
	driver, ok := raw.(drivers.DriverPlugin)
	if !ok {
		return fmt.Errorf("serves %T instead of a driver", raw)
	}
	s.driver = driver
	if err := s.check(); err != nil {
		return err
	}
	d.mu.Lock()
	before, config := d.info, d.config
	d.mu.Unlock()
	if before != nil && before.Name != s.info.Name {
		return fmt.Errorf("is the driver %q now, but has to stay %q as long as this process lives; restart Nomad's agent to change it", s.info.Name, before.Name)
	}
	if config != nil {
		if err := driver.SetConfig(config); err != nil {
			return fmt.Errorf("refuses the configuration that its predecessor had: %w", plain(err))
		}
	}
	return nil
}

// check asks what can be asked of a driver before it is configured.
func (s *session) check() error {
	info, err := s.driver.PluginInfo()
	if status.Code(err) == codes.Unimplemented {
		return errors.New("is not a plugin of Nomad's: it does not tell what it is")
	}
	if err != nil {
		return fmt.Errorf("ask what it is: %w", plain(err))
	}
	if info.Type != base.PluginTypeDriver {
		return fmt.Errorf("is a %s plugin, not a driver", info.Type)
	}
	// Nomad compares versions, for which the v means nothing.
	known := strings.TrimPrefix(drivers.ApiVersion010, "v")
	if !slices.ContainsFunc(info.PluginApiVersions, func(v string) bool { return strings.TrimPrefix(v, "v") == known }) {
		return fmt.Errorf("speaks the versions %v of the driver API, not %s", info.PluginApiVersions, drivers.ApiVersion010)
	}
	if info.Name == "" {
		return errors.New("is a driver without a name")
	}
	schema, err := s.driver.TaskConfigSchema()
	if err != nil {
		return fmt.Errorf("ask for its task configuration: %w", plain(err))
	}
	if _, ok := schema.GetObject().GetAttributes()[blockName]; ok {
		return fmt.Errorf("is a lifecycle driver itself: the configuration of its tasks has a %s block; name the driver plugin that it decorates", blockName)
	}
	s.info = info
	return nil
}

// handshakeError is go-plugin's: the process was started, or not even that,
// and has not said what plugins say first.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// describe makes of all that is known about a failed start one line.
func (d *Driver) describe(p *process, said *tail, late bool, err error) error {
	var wrote string
	if s := said.String(); s != "" {
		wrote = fmt.Sprintf("; it wrote %q", s)
	}
	var shake *handshakeError
	switch unspoken := errors.As(err, &shake); {
	case d.ctx.Err() != nil:
		return fmt.Errorf("driver plugin %s: ended while it was starting: %w", d.path, context.Cause(d.ctx))
	case late:
		return fmt.Errorf("driver plugin %s: did not answer within %s; is it a driver plugin of Nomad?%s", d.path, d.limits.start, wrote)
	case !unspoken:
		return fmt.Errorf("driver plugin %s: %w%s", d.path, err, wrote)
	case p.pid() == 0:
		return fmt.Errorf("driver plugin %s: start it: %w", d.path, err)
	case strings.HasPrefix(p.state, "exit status"):
		return fmt.Errorf("driver plugin %s: ended with %s instead of answering; is it a driver plugin of Nomad?%s", d.path, p.state, wrote)
	}
	// The rest of go-plugin's text is guesses, some lines of them.
	first, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Errorf("driver plugin %s: does not speak as driver plugins of Nomad do: %s%s", d.path, first, wrote)
}

// answers reports whether the child says that it is there.
func (s *session) answers(ctx context.Context) bool {
	_, err := grpc_health_v1.NewHealthClient(s.conn.Conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: plugin.GRPCServiceName})
	return err == nil || status.Code(err) == codes.Unimplemented
}

// close ends the child, in good order if that takes no longer than grace, and
// returns when nothing of the session is left.
func (s *session) close(grace time.Duration) {
	limit := time.AfterFunc(grace, s.proc.kill)
	defer limit.Stop()
	s.client.Kill()
	if s.proc.pid() == 0 {
		s.proc.end("was not started", context.Canceled)
	}
	<-s.proc.done
}

// replaced reports whether the file of the binary is another one by now.
func (s *session) replaced() bool {
	now, err := os.Stat(s.proc.path)
	if err != nil {
		return false // it is just being replaced; the next look will tell
	}
	return !os.SameFile(now, s.file) || !now.ModTime().Equal(s.file.ModTime()) || now.Size() != s.file.Size()
}
