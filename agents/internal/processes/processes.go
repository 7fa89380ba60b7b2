// Package processes kills and reaps processes, and what they have started.
package processes

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Kill sends a signal to a process, or to a process group if the number is negative.
// One that is gone is no error.
func Kill(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %s to %d: %w", sig, pid, err)
	}
	return nil
}

// HasEnded says whether a child has ended, and leaves it a zombie.
func HasEnded(pid int) (bool, error) {
	var info unix.Siginfo
	err := Retry(func() error {
		return unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	})
	if err != nil {
		return false, fmt.Errorf("look for the end of process %d: %w", pid, err)
	}
	return info.Signo != 0, nil
}

// AwaitEnd returns when a child has ended, and leaves it a zombie: its number, and that of
// its process group, belong to nobody else until it is waited for.
func AwaitEnd(pid int) error {
	err := Retry(func() error {
		return unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	})
	if err != nil {
		return fmt.Errorf("wait for the end of process %d: %w", pid, err)
	}
	return nil
}

// HasChildren says whether this process has any, those that have ended included.
func HasChildren() bool {
	err := Retry(func() error {
		return unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	})
	return !errors.Is(err, unix.ECHILD)
}

// Wait takes the end of a child. A negative number is a process group, -1 any child. It
// returns 0 if there is no such child, or, with the option WNOHANG, none that has ended.
func Wait(pid int, status *syscall.WaitStatus, options int) (int, error) {
	got := 0
	err := Retry(func() (err error) {
		got, err = syscall.Wait4(pid, status, options, nil)
		return err
	})
	switch {
	case errors.Is(err, syscall.ECHILD):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("wait for process %d: %w", pid, err)
	}
	return got, nil
}

// KillOrphans ends all children of this process and, as they come to it when they are
// orphans, everything below them.
func KillOrphans() error {
	for {
		if err := KillTree(os.Getpid()); err != nil {
			return err
		}
		// Each one that ends may leave behind others that were not there before.
		if pid, err := Wait(-1, nil, 0); err != nil || pid == 0 {
			return err
		}
	}
}

// KillTree kills everything below a process.
func KillTree(root int) error {
	below, err := descendants(root)
	for pid := range below {
		err = errors.Join(err, Kill(pid, syscall.SIGKILL))
	}
	return err
}

// ReapOrphans takes the ends of all children but those that somebody else waits for.
func ReapOrphans(awaited func(pid int) bool) error {
	below, err := descendants(os.Getpid())
	for pid, parent := range below {
		if parent != os.Getpid() || awaited(pid) {
			continue
		}
		_, werr := Wait(pid, nil, syscall.WNOHANG)
		err = errors.Join(err, werr)
	}
	return err
}

// BecomeReaper makes this process the one that orphans below it come to.
func BecomeReaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the reaper of orphans: %w", err)
	}
	return nil
}

// descendants maps all processes below one to their parents.
func descendants(root int) (map[int]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	parents := map[int]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue // no process
		}
		if parent, ok := parentOf(pid); ok {
			parents[pid] = parent
		}
	}
	below := map[int]int{}
	for pid, parent := range parents {
		// The table is no snapshot, so it might even have a circle.
		for up, steps := parent, 0; up != 0 && steps < len(parents); up, steps = parents[up], steps+1 {
			if up == root {
				below[pid] = parent
				break
			}
		}
	}
	return below, nil
}

// parentOf reads the parent of a process, unless that has ended.
func parentOf(pid int) (int, bool) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	// "pid (name) state ppid …"; a name may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(string(fields[1]))
	return parent, err == nil
}

// Retry repeats what a signal has interrupted.
func Retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
