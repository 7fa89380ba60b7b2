package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/processes"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/attempt"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// Exit codes of commands. All others mean a failure.
const (
	exitDone   = 0
	exitReject = 65 // EX_DATAERR
	exitSkip   = 99
)

// DefaultGrace is the time from SIGTERM to SIGKILL.
const DefaultGrace = 5 * time.Second

// pipeDelay is how long the output of what has left the process group is waited for.
const pipeDelay = time.Second

// Config says what is run.
type Config struct {
	// Command is the program and its arguments.
	Command []string
	// Alone: there is only ever one attempt at a time, so that all orphans are its.
	Alone bool
	// Reap makes this process the one that takes the ends of all orphans. It must have no
	// children other than those of this package.
	Reap bool
	// Grace is the time from SIGTERM to SIGKILL. Default DefaultGrace.
	Grace time.Duration
	// Stdout and Stderr are the command's. Default: this process's.
	Stdout, Stderr io.Writer
	Logger         hclog.Logger
}

// Commands does items by commands. It implements attempt.Way.
type Commands struct {
	cfg     Config
	path    string // of the program
	starts  chan *start
	closed  chan struct{}
	workers sync.WaitGroup

	mu   sync.Mutex
	pids map[int]struct{} // of commands that were started and not waited for yet
}

// start is a command to be started.
type start struct {
	cmd *exec.Cmd
	err chan error
}

// New finds the program. Close has to be called.
func New(cfg Config) (*Commands, error) {
	if len(cfg.Command) == 0 || cfg.Command[0] == "" {
		return nil, errors.New("there is no command; give it after --")
	}
	path, err := exec.LookPath(cfg.Command[0])
	if err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Stdout == nil {
		cfg.Stdout = os.Stdout
	}
	if cfg.Stderr == nil {
		cfg.Stderr = os.Stderr
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	if cfg.Reap {
		if err := processes.BecomeReaper(); err != nil {
			return nil, err
		}
	}
	c := &Commands{cfg: cfg, path: path, starts: make(chan *start), closed: make(chan struct{}), pids: map[int]struct{}{}}
	c.workers.Go(c.starter)
	if cfg.Reap {
		c.workers.Go(c.reaper)
	}
	return c, nil
}

// Close ends everything that commands have left behind. No attempt may be under way.
func (c *Commands) Close() error {
	close(c.closed)
	c.workers.Wait()
	if c.cfg.Reap {
		return processes.KillTree(os.Getpid())
	}
	return nil
}

// Ready implements attempt.Way.
func (c *Commands) Ready(context.Context) error { return nil }

// Do implements attempt.Way.
func (c *Commands) Do(ctx context.Context, a *attempt.Attempt) attempt.Result {
	vars := a.Vars()
	stderr := &tail{to: c.cfg.Stderr}
	cmd := &exec.Cmd{
		Path: c.path, Args: make([]string, len(c.cfg.Command)), Env: os.Environ(),
		Stdout: c.cfg.Stdout, Stderr: stderr, WaitDelay: pipeDelay,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	for i, arg := range c.cfg.Command {
		cmd.Args[i] = attempt.Expand(arg, vars)
	}
	for name, value := range vars {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if ctx.Err() != nil {
		return attempt.Failedf("%v", context.Cause(ctx))
	}
	if err := c.start(cmd); err != nil {
		return attempt.Failedf("the command cannot be started: %v", err)
	}
	pid := cmd.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- processes.AwaitEnd(pid) }()
	c.guide(ctx, pid, ended)
	// It is a zombie still, so that the number of its group is nobody else's.
	if err := processes.Kill(-pid, syscall.SIGKILL); err != nil {
		c.cfg.Logger.Warn("kill what is left of a command", "error", err)
	}
	err := cmd.Wait()
	c.mu.Lock()
	delete(c.pids, pid)
	c.mu.Unlock()
	if c.cfg.Alone && c.cfg.Reap {
		c.killOrphans()
	}
	return result(cmd.ProcessState, err, stderr)
}

// guide returns when the command has ended, and sees to it that it does when ctx has.
func (c *Commands) guide(ctx context.Context, pid int, ended <-chan error) {
	select {
	case err := <-ended:
		c.note("wait for a command", err)
		return
	case <-ctx.Done():
	}
	cause := context.Cause(ctx)
	if !errors.Is(cause, attempt.ErrLost) && !errors.Is(cause, attempt.ErrCancelled) {
		// A stopped process gets the signal when it goes on.
		c.note("end a command", errors.Join(processes.Kill(-pid, syscall.SIGTERM), processes.Kill(-pid, syscall.SIGCONT)))
		grace := time.NewTimer(c.cfg.Grace)
		defer grace.Stop()
		select {
		case err := <-ended:
			c.note("wait for a command", err)
			return
		case <-grace.C:
		}
	}
	// What has left the group is found as long as the command is there.
	c.note("kill a command", errors.Join(processes.KillTree(pid), processes.Kill(-pid, syscall.SIGKILL)))
	c.note("wait for a command", <-ended)
}

func (c *Commands) note(what string, err error) {
	if err != nil {
		c.cfg.Logger.Warn(what, "error", err)
	}
}

// result says what the end of a command means.
func result(state *os.ProcessState, err error, stderr *tail) attempt.Result {
	if state == nil {
		return attempt.Failedf("the command's end was missed: %v", err)
	}
	if status, is := state.Sys().(syscall.WaitStatus); is && status.Signaled() {
		return attempt.Result{Action: queue.Retry, Reason: stderr.reason("killed by a signal: " + status.Signal().String())}
	}
	code := state.ExitCode()
	switch code {
	case exitDone:
		return attempt.Result{Action: queue.Done}
	case exitSkip:
		return attempt.Result{Action: queue.Skip}
	case exitReject:
		return attempt.Result{Action: queue.Reject, Reason: stderr.reason("exit code 65")}
	}
	return attempt.Result{Action: queue.Retry, Reason: stderr.reason(fmt.Sprintf("exit code %d", code))}
}
