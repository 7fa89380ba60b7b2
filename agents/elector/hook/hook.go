package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// Limits of a command's timeout, and what it is when none is given.
const (
	MinTimeout     = 100 * time.Millisecond
	MaxTimeout     = 10 * time.Minute
	DefaultTimeout = 10 * time.Second
)

// drainTime is how long the output of a command that has ended is still read: its
// process group is gone then, but a process that left the group may hold the pipe.
const drainTime = 250 * time.Millisecond

// Kind says what has happened to the leadership.
type Kind string

// The kinds, as a command finds them in $ELECTION_EVENT.
const (
	Gain Kind = "gain"
	Loss Kind = "loss"
)

// Command is what to run.
type Command struct {
	// Args is the program and its arguments; no shell is involved.
	Args []string
	// Timeout is when the command is killed. 0 is DefaultTimeout.
	Timeout time.Duration
}

// Event is what a command is told, as environment variables.
type Event struct {
	Kind     Kind   // ELECTION_EVENT
	Election string // ELECTION
	Token    uint64 // ELECTION_TOKEN
	Term     uint64 // ELECTION_TERM
	Reason   string // ELECTION_REASON: why leadership was lost; empty for a gain
}

// env adds the event to the elector's own environment.
func (e Event) env() []string {
	return append(os.Environ(),
		"ELECTION_EVENT="+string(e.Kind),
		"ELECTION="+e.Election,
		"ELECTION_TOKEN="+strconv.FormatUint(e.Token, 10),
		"ELECTION_TERM="+strconv.FormatUint(e.Term, 10),
		"ELECTION_REASON="+e.Reason,
	)
}

// Validate returns an error that says what is wrong with the command, if anything.
func (c Command) Validate() error {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return errors.New("command: the program is missing")
	}
	if c.Timeout != 0 && (c.Timeout < MinTimeout || c.Timeout > MaxTimeout) {
		return fmt.Errorf("timeout: %s is not between %s and %s", c.Timeout, MinTimeout, MaxTimeout)
	}
	return nil
}

// Run runs the command and returns when it and its process group are gone. That is by
// its timeout, or soon after ctx ends, and a quarter of a second later where a process
// that left the group holds on to the output. The error says how the command failed.
func Run(ctx context.Context, log hclog.Logger, c Command, ev Event) error {
	if err := c.Validate(); err != nil {
		return err
	}
	timeout := c.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("its timeout of %s is over", timeout))
	defer cancel()

	log = log.With("election", ev.Election, "hook", string(ev.Kind))
	out := &lineLog{log: log}
	defer out.flush()
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env = ev.env()
	cmd.Stdout, cmd.Stderr = out, out // equal, so that exec writes from one goroutine
	cmd.WaitDelay = drainTime
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	// The death signal is bound to the thread that starts the command.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s hook %q: %w", ev.Kind, c.Args[0], err)
	}
	err := waitGroup(ctx, cmd)
	took := time.Since(begin).Round(time.Millisecond)
	if ctx.Err() != nil && err != nil {
		err = fmt.Errorf("killed: %w", context.Cause(ctx))
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it succeeded; somebody else holds its output
	}
	if err != nil {
		return fmt.Errorf("run %s hook %q: %w", ev.Kind, c.Args[0], err)
	}
	log.Info("hook succeeded", "command", c.Args[0], "took", took)
	return nil
}

// waitGroup waits for the command, or kills it when ctx ends, and then kills what is
// left of its process group. The group is killed only while the command runs or is a
// zombie, because only so long does its number belong to nobody else.
func waitGroup(ctx context.Context, cmd *exec.Cmd) error {
	pid := cmd.Process.Pid
	ended, watched := make(chan struct{}), make(chan error, 1)
	go func() {
		select {
		case <-ctx.Done():
			watched <- killGroup(pid)
		case <-ended:
			watched <- nil
		}
	}()
	err := awaitExit(pid)
	close(ended)
	return errors.Join(err, <-watched, killGroup(pid), cmd.Wait())
}

// awaitExit waits until the process is a zombie and leaves it one.
func awaitExit(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for process %d: %w", pid, err)
		}
	}
}

// killGroup kills a process group. One that is gone is no error.
func killGroup(pgid int) error {
	if err := syscall.Kill(-pgid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process group %d: %w", pgid, err)
	}
	return nil
}
