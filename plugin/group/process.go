package group

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process names one process for ever; a number alone is given to others later.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since the boot
	Boot  string `json:"boot"`  // the kernel's random name of its boot
}

// find returns the process that has the number pid now. The error is
// fs.ErrNotExist if there is none, or only what its parent has yet to collect.
func find(pid int) (Process, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Process{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, unix.ESRCH) { // it has ended between open and read
		err = fs.ErrNotExist
	}
	if err != nil {
		return Process{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	state, start, err := parseStat(string(stat))
	if err != nil {
		return Process{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	if state == "Z" || state == "X" {
		return Process{}, fmt.Errorf("find process %d: has ended: %w", pid, fs.ErrNotExist)
	}
	return Process{PID: pid, Start: start, Boot: strings.TrimSpace(string(boot))}, nil
}

// Self is this process.
func Self() (Process, error) { return find(os.Getpid()) }

// Dead reports whether the process has certainly ended. What cannot be found out
// counts as alive.
func (p Process) Dead() bool { return p.dead() }

// parseStat returns the fields 3 (state) and 22 (starttime) of a process's stat
// file, see proc_pid_stat(5). Field 2 is a name in which anything can stand,
// spaces and parentheses as well.
func parseStat(stat string) (state string, start uint64, err error) {
	const first, starttime = 3, 22
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) <= starttime-first {
		return "", 0, fmt.Errorf("stat has only %d fields after the name", len(fields))
	}
	start, err = strconv.ParseUint(fields[starttime-first], 10, 64)
	if err != nil {
		return "", 0, fmt.Errorf("start time: %w", err)
	}
	return fields[0], start, nil
}

// dead reports whether the process has certainly ended. What cannot be found
// out counts as alive.
func (p Process) dead() bool {
	now, err := find(p.PID)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return now != p
}
