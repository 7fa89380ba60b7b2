package runner

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// kill sends a signal to a process, or to a process group if the number is negative.
// One that is gone is no error.
func kill(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %s to %d: %w", sig, pid, err)
	}
	return nil
}

// hasEnded says whether a child has ended, and leaves it a zombie.
func hasEnded(pid int) (bool, error) {
	var info unix.Siginfo
	err := retry(func() error {
		return unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	})
	if err != nil {
		return false, fmt.Errorf("look for the end of process %d: %w", pid, err)
	}
	return info.Signo != 0, nil
}

// wait takes the end of a child. A negative number is a process group, -1 any child. It
// returns 0 if there is no such child, or, with the option WNOHANG, none that has ended.
func wait(pid int, status *syscall.WaitStatus, options int) (int, error) {
	got := 0
	err := retry(func() (err error) {
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

// killOrphans ends all children of this process and, as they come to it when they are
// orphans, everything below them.
func killOrphans() error {
	for {
		if err := killTree(os.Getpid()); err != nil {
			return err
		}
		// Each one that ends may leave behind others that were not there before.
		if pid, err := wait(-1, nil, 0); err != nil || pid == 0 {
			return err
		}
	}
}

// killTree kills everything below a process.
func killTree(root int) error {
	below, err := descendants(root)
	for pid := range below {
		err = errors.Join(err, kill(pid, syscall.SIGKILL))
	}
	return err
}

// reapOrphans takes the ends of all children but one.
func reapOrphans(except int) error {
	below, err := descendants(os.Getpid())
	for pid, parent := range below {
		if parent != os.Getpid() || pid == except {
			continue
		}
		_, werr := wait(pid, nil, syscall.WNOHANG)
		err = errors.Join(err, werr)
	}
	return err
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

// retry repeats what a signal has interrupted.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
