package run

import (
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/processes"
)

// reapEvery bounds how often orphans that have ended are looked for, since that means
// looking at all processes.
const reapEvery = time.Second

// start starts a command. It is known to the reaper before it can end.
func (c *Commands) start(cmd *exec.Cmd) error {
	s := &start{cmd, make(chan error, 1)}
	c.starts <- s
	return <-s.err
}

// starter starts commands. Their death signal is bound to the thread that starts them, so
// it has to live as long as they do: this goroutine keeps it, and ends after them all.
func (c *Commands) starter() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case s := <-c.starts:
			c.mu.Lock()
			err := s.cmd.Start()
			if err == nil {
				c.pids[s.cmd.Process.Pid] = struct{}{}
			}
			c.mu.Unlock()
			s.err <- err
		case <-c.closed:
			return
		}
	}
}

// reaper takes the ends of orphans, which nobody else does if this is the first process
// of a container.
func (c *Commands) reaper() {
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGCHLD)
	defer signal.Stop(ends)
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.closed:
			return
		}
		select {
		case <-ends:
			c.mu.Lock()
			err := processes.ReapOrphans(func(pid int) bool { _, ours := c.pids[pid]; return ours })
			c.mu.Unlock()
			c.note("reap orphans", err)
		default: // none has ended
		}
	}
}

// killOrphans kills what has left the process group of the only command, which has ended.
func (c *Commands) killOrphans() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pids) > 0 || !processes.HasChildren() {
		return
	}
	c.note("kill what is left of a command", processes.KillOrphans())
}
