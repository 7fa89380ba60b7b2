package runner

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/processes"
)

// tellTimeout bounds the writing of an order: a frozen guard does not read.
const tellTimeout = 100 * time.Millisecond

// errGuardKilled says that the guard has died before the command.
var errGuardKilled = errors.New("the command's guard was killed")

// command is a command under a guard.
type command struct {
	guard  *exec.Cmd
	orders *os.File
	done   chan struct{} // closed when the command and all below it are gone

	mu    sync.Mutex
	pid   int  // of the command; 0: not started yet
	ended bool // the guard is gone: no more orders

	// Set before done is closed.
	result result
	late   bool  // there was no time to start it
	err    error // it was not started, or not guarded
}

// files are where a command reads and writes.
type files struct{ stdin, stdout, stderr *os.File }

// startCommand starts a guard for the command. The command itself is started by the
// first deadline.
func startCommand(guard, args, env []string, f files) (*command, error) {
	ordersR, ordersW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	reportsR, reportsW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start guard: %w", err), ordersR.Close(), ordersW.Close())
	}
	cmd := exec.Command(guard[0], append(append([]string{}, guard[1:]...), args...)...) //nolint:gosec // running what is asked for is the purpose
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f.stdin, f.stdout, f.stderr
	cmd.ExtraFiles = []*os.File{ordersR, reportsW}
	// A signal of the terminal is for this process, which knows what to do first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = errors.Join(cmd.Start(), ordersR.Close(), reportsW.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start guard: %w", err), ordersW.Close(), reportsR.Close())
	}
	c := &command{guard: cmd, orders: ordersW, done: make(chan struct{})}
	go c.follow(reportsR)
	return c, nil
}

// follow reads the guard's reports until it has ended, and ends what it left.
func (c *command) follow(reports *os.File) {
	defer close(c.done)
	ended := false
	lines := bufio.NewScanner(reports)
	for lines.Scan() {
		var r report
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			c.err = fmt.Errorf("read report of the guard: %w", err)
			break
		}
		switch {
		case r.Started != 0:
			c.mu.Lock()
			c.pid = r.Started
			c.mu.Unlock()
		case r.Late:
			c.late = true
		case r.Failed != "":
			c.result, c.err = r.result, errors.New(r.Failed)
		case r.Ended:
			ended = true
			c.result = r.result
		}
	}
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	err := errors.Join(lines.Err(), reports.Close(), c.orders.Close())
	// Its own exit code says nothing that it has not reported.
	var exit *exec.ExitError
	if werr := c.guard.Wait(); werr != nil && !errors.As(werr, &exit) {
		err = errors.Join(err, werr)
	}
	if pid := c.process(); !ended && pid != 0 {
		c.result = result{Code: 128 + int(syscall.SIGKILL), Signal: syscall.SIGKILL, Killed: true}
		// What it guarded has come to this process, the next reaper above it. Nothing
		// of that is taken before the group is killed, so that the group's number
		// cannot belong to anybody else.
		err = errors.Join(errGuardKilled, err, processes.Kill(-pid, syscall.SIGKILL), processes.KillOrphans())
	}
	c.err = errors.Join(c.err, err)
}

// process is the command's process ID, or 0.
func (c *command) process() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid
}

// tell gives an order. A guard that does not read is frozen or gone, which shows
// elsewhere: the deadline that it knows already is in force.
func (c *command) tell(o order) error {
	b, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode order: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	err = c.orders.SetWriteDeadline(time.Now().Add(tellTimeout))
	if err == nil {
		_, err = c.orders.Write(append(b, '\n'))
	}
	if errors.Is(err, syscall.EPIPE) {
		return nil // it has ended just now
	}
	if err != nil {
		return fmt.Errorf("give the guard an order: %w", err)
	}
	return nil
}

// killAll kills the command and all below it, for when the guard does not. Until the
// guard has reported the end the command is there or is a zombie, so the number is its
// own.
func (c *command) killAll() error {
	pid := c.process()
	if pid == 0 {
		return nil
	}
	return errors.Join(processes.Kill(-pid, syscall.SIGKILL), processes.KillTree(c.guard.Process.Pid))
}

// killGuard kills the guard.
func (c *command) killGuard() error {
	if err := c.guard.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the guard: %w", err)
	}
	return nil
}
