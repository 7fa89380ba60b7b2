// Package process tells processes of this machine apart and finds what they have
// started. It reads /proc.
//
// What it says is how things were a moment ago: a process can end, and its number
// be given to another one, at any time.
package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ID names one process for ever; a number alone is given to others later.
type ID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since the boot
	Boot  string `json:"boot"`  // the kernel's random name of its boot
}

// Self is this process.
func Self() (ID, error) { return Find(os.Getpid()) }

// Find returns the process that has the number pid now. The error is
// fs.ErrNotExist if there is none, or only what its parent has yet to collect.
func Find(pid int) (ID, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ID{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	s, err := statOf(pid)
	if err != nil {
		return ID{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	if s.state == "Z" || s.state == "X" {
		return ID{}, fmt.Errorf("find process %d: has ended: %w", pid, fs.ErrNotExist)
	}
	return ID{PID: pid, Start: s.start, Boot: strings.TrimSpace(string(boot))}, nil
}

// Dead reports whether the process has certainly ended. What cannot be found out
// counts as alive.
func (p ID) Dead() bool {
	now, err := Find(p.PID)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return now != p
}

// Numbers lists the numbers of all processes.
func Numbers() ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	all := make([]int, 0, len(dirs))
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			all = append(all, pid)
		}
	}
	return all, nil
}

// Descendants lists the processes below one, the deepest last.
func Descendants(root int) ([]int, error) {
	numbers, err := Numbers()
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, pid := range numbers {
		if s, err := statOf(pid); err == nil { // else it has ended
			children[s.parent] = append(children[s.parent], pid)
		}
	}
	var all []int
	for next := []int{root}; len(next) > 0; {
		below := children[next[0]]
		all = append(all, below...)
		next = slices.Concat(next[1:], below)
	}
	return all, nil
}

// stat is what is used of a process's stat file.
type stat struct {
	state  string
	parent int
	start  uint64 // in clock ticks since the boot
}

func statOf(pid int) (stat, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, unix.ESRCH) { // it has ended between open and read
		err = fs.ErrNotExist
	}
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(text))
}

// parseStat reads the fields 3 (state), 4 (ppid) and 22 (starttime) of a stat
// file, see proc_pid_stat(5). Field 2 is a name in which anything can stand,
// spaces and parentheses as well.
func parseStat(text string) (s stat, err error) {
	const state, ppid, starttime = 0, 1, 19 // after the name
	fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	if len(fields) <= starttime {
		return stat{}, fmt.Errorf("stat has only %d fields after the name", len(fields))
	}
	s.state = fields[state]
	if s.parent, err = strconv.Atoi(fields[ppid]); err != nil {
		return stat{}, fmt.Errorf("parent: %w", err)
	}
	if s.start, err = strconv.ParseUint(fields[starttime], 10, 64); err != nil {
		return stat{}, fmt.Errorf("start time: %w", err)
	}
	return s, nil
}
