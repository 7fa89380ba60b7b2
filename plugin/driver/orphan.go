package driver

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nomad-patterns/nomad-patterns/plugin/process"
)

// orphanGrace is how long Nomad may take to hand tasks that it knows to a new
// plugin process.
const orphanGrace = time.Minute

// noteStart writes into the journal that a start begins.
func (d *Driver) noteStart(t *task) error {
	self, err := process.Self()
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	d.orphans.Lock()
	defer d.orphans.Unlock()
	return t.journal.starting(self, d.name)
}

// sweepOrphans ends what starts of a plugin process before this one have left
// behind, for allocations that never start again: they were stopped while the
// plugin was down. Those that do start again are cleared by their next start.
//
// What the inner driver has not returned a handle of cannot be known to Nomad,
// and is ended at once; the rest only after Nomad had the time to hand it over.
func (d *Driver) sweepOrphans() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.swept {
		return
	}
	d.swept = true
	d.background.Go(func() {
		d.sweep(false)
		timer := time.NewTimer(orphanGrace)
		defer timer.Stop()
		select {
		case <-timer.C:
			d.sweep(true)
		case <-d.ctx.Done():
		}
	})
}

func (d *Driver) sweep(handles bool) {
	for _, e := range executors() {
		j := &journal{path: filepath.Join(filepath.Dir(e.taskDir), ".lifecycle", filepath.Base(e.taskDir)+".json")}
		if d.orphaned(j, handles) {
			d.logger.Warn("ending the left-over process of an interrupted start", "task_dir", e.taskDir, "pid", e.pid)
			d.clear(j, e, handles)
		}
	}
}

func (d *Driver) orphaned(j *journal, handles bool) bool {
	if j.load() != nil {
		return false // who starts the task next will say so
	}
	yes, handle := j.abandoned(d.name)
	return yes && (handles || !handle)
}

// clear ends one left-over process, unless its task has been started again or
// handed over meanwhile.
func (d *Driver) clear(j *journal, e executor, handles bool) {
	d.orphans.Lock()
	defer d.orphans.Unlock()
	if !d.orphaned(j, handles) {
		return
	}
	if orphan, err := j.orphan(); err == nil && orphan != nil && d.inner.RecoverTask(orphan) == nil {
		err = d.end(orphan.Config.ID, abortTimeout)
		if err != nil {
			d.logger.Error("left-over process may still run", "task_dir", e.taskDir, "error", err)
			return
		}
	}
	d.killExecutors(e.taskDir)
	if err := j.answered(); err != nil {
		d.logger.Warn("journal not cleared", "task_dir", e.taskDir, "error", err)
	}
}

// executor is a process in which exec or raw_exec has a task.
type executor struct {
	pid     int
	taskDir string
}

// executors lists the executors that this plugin's program has started, in
// whatever process. Their command line says where their log is, which is in the
// task's directory. Tasks can call themselves by any command line, and write any
// journal, but do not have the program; a plugin that was replaced meanwhile does
// not find what the one before has left.
func executors() []executor {
	program, err := os.Stat("/proc/self/exe")
	if err != nil {
		return nil // as if there were none
	}
	numbers, err := process.Numbers()
	if err != nil {
		return nil // as if there were none
	}
	var all []executor
	for _, pid := range numbers {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(cmdline), "\x00")
		if len(args) < 3 || args[1] != "executor" {
			continue
		}
		if exe, err := os.Stat(filepath.Join(dir, "exe")); err != nil || !os.SameFile(program, exe) {
			continue
		}
		var config struct{ LogFile string }
		if json.Unmarshal([]byte(args[2]), &config) != nil || !filepath.IsAbs(config.LogFile) {
			continue
		}
		all = append(all, executor{pid: pid, taskDir: filepath.Dir(config.LogFile)})
	}
	return all
}

// killExecutors ends the executors of a task, and all that they have started.
func (d *Driver) killExecutors(taskDir string) {
	for _, e := range executors() {
		if e.taskDir != taskDir {
			continue
		}
		below, err := process.Descendants(e.pid)
		if err != nil {
			d.logger.Error("what a left-over process has started is not known", "task_dir", taskDir, "pid", e.pid, "error", err)
		}
		for _, pid := range append(below, e.pid) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
				d.logger.Error("left-over process not ended", "task_dir", taskDir, "pid", pid, "error", err)
			}
		}
	}
}
