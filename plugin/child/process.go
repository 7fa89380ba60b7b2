package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
)

// pipeGrace is for how long the output of a process that has ended is still
// read. Its descendants may hold the pipes open for ever.
const pipeGrace = 300 * time.Millisecond

// process is one run of the plugin binary. go-plugin has a runner of its own,
// but that one takes a process for alive as long as any descendant holds its
// standard error, and cannot be interrupted while it starts.
type process struct {
	path string
	args []string
	env  []string

	stdout, stderr *pipe // set by Start

	done  chan struct{} // closed when the process has ended, or was not started
	once  sync.Once     // for done
	state string        // how it ended, for people; set before done is closed
	err   error         // the same for go-plugin

	mu     sync.Mutex // guards the fields below
	killed bool
	proc   *os.Process
}

var _ runner.Runner = (*process)(nil)

func newProcess(path string, args []string) *process {
	return &process{path: path, args: args, done: make(chan struct{})}
}

// Start implements runner.Runner. It has to be called on a goroutine that is
// locked to a thread which lives as long as the process may: the kernel kills
// the process when that thread ends, not only when all of this process does.
func (p *process) Start(context.Context) (err error) {
	defer func() {
		if err != nil {
			p.end("was not started", err)
		}
	}()
	outR, outW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe for its standard output: %w", err)
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("pipe for its standard error: %w", err), outR.Close(), outW.Close())
	}
	cmd := exec.Command(p.path, p.args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, outW, errW
	// This holds also when this process is killed and can do nothing itself.
	// What the child starts does not inherit it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed {
		err = context.Canceled
	} else {
		err = cmd.Start()
	}
	// The process has its own copies of the ends it writes to.
	if err = errors.Join(err, outW.Close(), errW.Close()); err != nil {
		return errors.Join(err, outR.Close(), errR.Close())
	}
	p.proc = cmd.Process
	p.stdout, p.stderr = &pipe{outR}, &pipe{errR}
	go p.wait(cmd)
	return nil
}

// wait ends with the process, which is ended at the latest with the driver.
func (p *process) wait(cmd *exec.Cmd) {
	err := cmd.Wait()
	limit := time.Now().Add(pipeGrace)
	for _, r := range []*pipe{p.stdout, p.stderr} {
		// It fails only if the reader is done with the pipe.
		_ = r.SetReadDeadline(limit)
	}
	p.end(cmd.ProcessState.String(), err)
}

func (p *process) end(state string, err error) {
	p.once.Do(func() {
		p.state, p.err = state, err
		close(p.done)
	})
}

// kill ends the process at once, or keeps it from starting.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = true
	if p.proc != nil {
		_ = p.proc.Kill() // it fails only if the process has ended
	}
}

// pid is 0 if the process was not started.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return 0
	}
	return p.proc.Pid
}

// Wait implements runner.Runner.
func (p *process) Wait(context.Context) error {
	<-p.done
	return p.err
}

// Kill implements runner.Runner.
func (p *process) Kill(context.Context) error {
	p.kill()
	return nil
}

// Stdout implements runner.Runner.
func (p *process) Stdout() io.ReadCloser { return p.stdout }

// Stderr implements runner.Runner.
func (p *process) Stderr() io.ReadCloser { return p.stderr }

// Name implements runner.Runner.
func (p *process) Name() string { return p.path }

// ID implements runner.Runner. It is never empty: go-plugin cleans up only
// after processes with an ID.
func (p *process) ID() string { return strconv.Itoa(p.pid()) }

// Diagnose implements runner.Runner.
func (p *process) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner.
func (p *process) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

// HostToPlugin implements runner.Runner.
func (p *process) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

// pipe is the reading end of a pipe. It closes itself at the end.
type pipe struct{ *os.File }

func (p *pipe) Read(b []byte) (int, error) {
	n, err := p.File.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	if err != nil {
		_ = p.Close() // nothing was written to it
	}
	return n, err
}

// environ is this process's environment without what Nomad's agent has put
// there for the start of this very process: a child that finds, say, the
// agent's certificate would want to speak TLS.
func environ(all []string) []string {
	own := []string{
		"PLUGIN_MIN_PORT", "PLUGIN_MAX_PORT", "PLUGIN_PROTOCOL_VERSIONS", "PLUGIN_CLIENT_CERT",
		"PLUGIN_MULTIPLEX_GRPC", plugin.EnvUnixSocketDir, plugin.EnvUnixSocketGroup,
	}
	env := make([]string, 0, len(all))
	for _, kv := range all {
		if key, _, _ := strings.Cut(kv, "="); !slices.Contains(own, key) {
			env = append(env, kv)
		}
	}
	return env
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

const maxTail = 512 // bytes

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - maxTail; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
