package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ident names one process for good: the kernel gives a PID away again, but not
// together with the same start time.
type ident struct {
	PID int `json:"pid"`
	// Start is field 22 of /proc/<pid>/stat: clock ticks since boot.
	Start uint64 `json:"start"`
}

// procInfo is what /proc tells about one process. What may not be read (the
// processes of other users) is empty.
type procInfo struct {
	ident
	ppid   int
	zombie bool
	// terminal says that the process has a controlling terminal.
	terminal bool
	args     []string
	environ  []string
	cwd      string
	root     string
	exe      string
	cgroup   string
}

// identOf identifies a running process.
func identOf(pid int) (ident, error) {
	p, err := readStat(pid)
	if err != nil {
		return ident{}, err
	}
	return p.ident, nil
}

// alive says whether exactly this process still runs. A zombie does not run.
func (i ident) alive() bool {
	if i.PID <= 0 {
		return false
	}
	p, err := readStat(i.PID)
	return err == nil && p.Start == i.Start && !p.zombie
}

// signal sends a signal to exactly this process. A process that is gone is no
// error.
func (i ident) signal(sig syscall.Signal) error {
	// The file descriptor pins the process, so that it cannot be replaced by
	// another one between the comparison and the signal.
	p, err := os.FindProcess(i.PID)
	if err != nil {
		return fmt.Errorf("find process %d: %w", i.PID, err)
	}
	defer func() { _ = p.Release() }() // Release of a found process has no failure that matters
	if !i.alive() {
		return nil
	}
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s to process %d: %w", sig, i.PID, err)
	}
	return nil
}

// readStat reads /proc/<pid>/stat.
func readStat(pid int) (procInfo, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procInfo{}, fmt.Errorf("read stat of process %d: %w", pid, err)
	}
	p, err := parseStat(string(b))
	if err != nil {
		return procInfo{}, fmt.Errorf("stat of process %d: %w", pid, err)
	}
	return p, nil
}

// parseStat takes a line of /proc/<pid>/stat apart. The second field, the name
// of the command in parentheses, may hold blanks and parentheses itself.
func parseStat(line string) (procInfo, error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return procInfo{}, fmt.Errorf("no command name in %q", line)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line[:open]))
	if err != nil {
		return procInfo{}, fmt.Errorf("process id: %w", err)
	}
	f := strings.Fields(line[end+1:]) // f[0] is field 3
	if len(f) < 20 {
		return procInfo{}, fmt.Errorf("only %d fields after the command name", len(f))
	}
	ppid, err := strconv.Atoi(f[1])
	if err != nil {
		return procInfo{}, fmt.Errorf("parent: %w", err)
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return procInfo{}, fmt.Errorf("start time: %w", err)
	}
	return procInfo{
		ident:    ident{PID: pid, Start: start},
		ppid:     ppid,
		zombie:   f[0] == "Z" || f[0] == "X",
		terminal: f[4] != "0",
	}, nil
}

// processes lists all running processes, zombies left out.
func processes() ([]procInfo, error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []procInfo
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		p, err := readProcess(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		if !p.zombie {
			all = append(all, p)
		}
	}
	return all, nil
}

// readProcess reads all that procInfo holds. Only the loss of the process
// itself is an error: what belongs to others may not be readable.
func readProcess(pid int) (procInfo, error) {
	p, err := readStat(pid)
	if err != nil {
		return procInfo{}, err
	}
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	p.args = readNulList(filepath.Join(dir, "cmdline"))
	p.environ = readNulList(filepath.Join(dir, "environ"))
	p.cwd = readLink(filepath.Join(dir, "cwd"))
	p.root = readLink(filepath.Join(dir, "root"))
	p.exe = readLink(filepath.Join(dir, "exe"))
	if b, err := os.ReadFile(filepath.Join(dir, "cgroup")); err == nil {
		p.cgroup = string(b)
	}
	return p, nil
}

// readLink is the target of a symlink, or empty.
func readLink(path string) string {
	target, err := os.Readlink(path)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(target, " (deleted)")
}

// readNulList splits a file of NUL-terminated strings.
func readNulList(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return nil
	}
	parts := bytes.Split(bytes.TrimRight(b, "\x00"), []byte{0})
	list := make([]string, len(parts))
	for i, s := range parts {
		list[i] = string(s)
	}
	return list
}

// env is the value of a variable in the environment of the process.
func (p procInfo) env(key string) string {
	for _, kv := range p.environ {
		if v, ok := strings.CutPrefix(kv, key+"="); ok {
			return v
		}
	}
	return ""
}

// String is how a leftover is reported.
func (p procInfo) String() string {
	cmd := strings.Join(p.args, " ")
	if len(cmd) > 160 {
		cmd = cmd[:160] + "…"
	}
	return fmt.Sprintf("process %d: %s", p.PID, cmd)
}

// belongsTo says whether a process is of the cluster with this ID, data
// directory and allocations.
//
// The mark in the environment and the cgroup are proof. The other signs are
// not: the shell of a person who looks at the files has its working directory
// there too, so what has a terminal is left alone.
func (p procInfo) belongsTo(id, dir string, allocs []string) bool {
	if v := p.env(markEnv); v == id || strings.HasPrefix(v, id+":") {
		return true
	}
	for _, alloc := range allocs {
		if strings.Contains(p.cgroup, alloc) {
			return true
		}
	}
	if p.terminal {
		return false
	}
	for _, path := range []string{p.cwd, p.root, p.exe} {
		if under(path, dir) {
			return true
		}
	}
	for _, key := range []string{"NOMAD_ALLOC_DIR", "NOMAD_TASK_DIR", "NOMAD_SECRETS_DIR"} {
		if under(p.env(key), dir) {
			return true
		}
	}
	return false
}

// under says whether path is dir or lies below it.
func under(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}
