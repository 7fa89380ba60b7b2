package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/processes"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// GuardCommand is the hidden subcommand that the program has to lead to [Guard].
const GuardCommand = "guard"

// Files that the guard is started with.
const (
	ordersFD  = 3 // read: what to do
	reportsFD = 4 // written: what has happened
)

// killMargin is how long before the end of trust the guard kills: it has to be
// scheduled, and the processes have to die.
const killMargin = 100 * time.Millisecond

// priority is the nice value of the guard, where it may be changed: that the guard is
// scheduled in time is all that it is for.
const priority = -15

// order is a line of JSON for the guard. Times are nanoseconds on the clock of
// election.Now, which is the same in all processes of a machine.
type order struct {
	// Soft and Hard, if Hard is not 0, are when the command is asked to end and when
	// it is killed at last. The first such order that comes in time starts the command.
	Soft time.Duration `json:"soft,omitempty"`
	Hard time.Duration `json:"hard,omitempty"`
	// Stop, if not 0, asks the command to end now, and kills it then if it has not.
	Stop time.Duration `json:"stop,omitempty"`
	// Signal, if not 0, is sent to the command.
	Signal syscall.Signal `json:"signal,omitempty"`
}

// report is a line of JSON from the guard.
type report struct {
	Started int    `json:"started,omitempty"` // process ID of the command
	Late    bool   `json:"late,omitempty"`    // there was no time to start it
	Failed  string `json:"failed,omitempty"`  // why it could not be started or guarded
	Ended   bool   `json:"ended,omitempty"`   // the command and all below it are gone
	result
}

// result is how a command ended.
type result struct {
	Code   int            `json:"code"`             // exit code, or 128 and the signal
	Signal syscall.Signal `json:"signal,omitempty"` // that ended it
	Asked  bool           `json:"asked,omitempty"`  // it had been asked to end
	Killed bool           `json:"killed,omitempty"` // it did not end in time
}

// Guard is the main function of the guard: it runs the command in args until it ends,
// its deadline passes, or the process that gives the orders is gone. It returns the
// exit code of the guard itself, which says nothing about the command.
func Guard(args []string) int {
	// The command's death signal is bound to the thread that starts it: this one, and
	// it lives as long as the process.
	runtime.LockOSThread()
	if !isPipe(ordersFD) || !isPipe(reportsFD) {
		fmt.Fprintln(os.Stderr, "this is a part of the run command and not meant to be started by hand")
		return 1
	}
	unix.CloseOnExec(ordersFD)
	unix.CloseOnExec(reportsFD)
	g := &guard{args: args, reports: os.NewFile(reportsFD, "reports")}
	if err := g.run(); err != nil {
		r := report{Failed: err.Error()}
		r.Code = exitNotRunnable
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			r.Code = exitNotFound
		}
		g.report(r)
		return 1
	}
	return 0
}

// guard is the state of a guard. Only the goroutine of run uses it.
type guard struct {
	args    []string
	reports *os.File
	pid     int           // of the command; 0: not started
	soft    time.Duration // when the command is asked to end
	hard    time.Duration // when it is killed
	stopBy  time.Duration // when it is killed at last after a Stop; 0: there was none
	asked   bool          // it has got SIGTERM
	killed  bool          // it has got SIGKILL
}

func (g *guard) run() error {
	if len(g.args) == 0 {
		return errors.New("no command is given")
	}
	// Orphans come to this process, so that none is out of reach.
	if err := processes.BecomeReaper(); err != nil {
		return err
	}
	// A signal for the whole process group is for the one who gives the orders to
	// understand. It is caught and not ignored, because a command inherits what is
	// ignored.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGCHLD)
	defer signal.Stop(signals)
	alarm, err := newAlarm()
	if err != nil {
		return err
	}
	box, err := newInbox()
	if err != nil {
		return err
	}
	wake, open := box.wake, true
	for {
		woken := false
		select {
		case <-wake:
			woken = true
		case <-alarm.rings:
		case sig := <-signals:
			if sig == syscall.SIGCHLD && g.pid != 0 {
				if err := processes.ReapOrphans(func(pid int) bool { return pid == g.pid }); err != nil {
					return err
				}
			}
		}
		if open {
			orders, err := box.read()
			if late, oerr := g.obey(orders); oerr != nil || late {
				return oerr
			}
			if err != nil {
				// The other one is gone, or talks nonsense. What it trusted in is
				// still true for a while, but nobody will let go of the lock.
				open, wake = false, nil
				g.stop(g.hard)
			} else if woken {
				box.listen()
			}
		}
		if g.pid == 0 {
			if !open {
				return nil // nothing was ever started
			}
			continue
		}
		if ended, err := g.reap(); err != nil || ended {
			return err
		}
		if err := g.enforce(election.Now()); err != nil {
			return err
		}
		if err := alarm.set(g.next()); err != nil {
			return err
		}
	}
}

// obey does what it is told. Late means that the command has to end and was never
// started.
func (g *guard) obey(orders []order) (late bool, err error) {
	for _, o := range orders {
		if o.Hard != 0 {
			g.soft, g.hard = o.Soft, o.Hard
		}
		if o.Stop != 0 {
			g.stop(o.Stop)
		}
		if o.Signal != 0 && g.pid != 0 {
			err = errors.Join(err, processes.Kill(g.pid, o.Signal))
		}
	}
	switch {
	case err != nil || g.pid != 0 || g.hard == 0:
		return false, err
	case g.stopBy != 0:
		g.report(report{Late: true})
		return true, nil
	case election.Now() < g.soft:
		return false, g.start()
	}
	// Too late, because the start of this process took long: another order follows if
	// there is still trust.
	return false, nil
}

// stop asks the command to end now, and by the given time at last.
func (g *guard) stop(by time.Duration) {
	if g.stopBy == 0 || by < g.stopBy {
		g.stopBy = by
	}
}

// start starts the command.
func (g *guard) start() error {
	cmd := exec.Command(g.args[0], g.args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	g.pid = cmd.Process.Pid
	// After the start, for the command must not have it too. Whoever may not does
	// without.
	_ = unix.Setpriority(unix.PRIO_PGRP, 0, priority)
	g.report(report{Started: g.pid})
	return cmd.Process.Release() // reap waits for it
}

// enforce asks the command to end, or kills it, if it is time.
func (g *guard) enforce(now time.Duration) error {
	if !g.asked && (g.stopBy != 0 || now >= g.soft) {
		g.asked = true
		// A stopped process gets the signal when it goes on.
		if err := errors.Join(processes.Kill(g.pid, syscall.SIGTERM), processes.Kill(-g.pid, syscall.SIGCONT)); err != nil {
			return err
		}
	}
	if !g.killed && now >= g.deadline() {
		g.killed = true
		// At once, and then what has left the group.
		return errors.Join(processes.Kill(-g.pid, syscall.SIGKILL), processes.KillTree(os.Getpid()))
	}
	return nil
}

// deadline is when the command is killed.
func (g *guard) deadline() time.Duration {
	if g.stopBy != 0 && g.stopBy < g.hard-killMargin {
		return g.stopBy
	}
	return g.hard - killMargin
}

// next is when there is something to enforce; 0: never.
func (g *guard) next() time.Duration {
	switch {
	case g.killed:
		return 0
	case !g.asked:
		return min(g.soft, g.deadline())
	default:
		return g.deadline()
	}
}

// reap takes the ends of processes. If the command has ended, it ends all that is left
// of it and reports that. The command stays a zombie until its group is killed, because
// only so long does the group's number belong to nobody else.
func (g *guard) reap() (ended bool, err error) {
	ended, err = processes.HasEnded(g.pid)
	if err != nil || !ended {
		return false, err
	}
	if err := processes.Kill(-g.pid, syscall.SIGKILL); err != nil {
		return false, err
	}
	var status syscall.WaitStatus
	if _, err := processes.Wait(g.pid, &status, 0); err != nil {
		return false, err
	}
	if err := processes.KillOrphans(); err != nil {
		return false, err
	}
	r := result{Code: status.ExitStatus(), Asked: g.asked, Killed: g.killed}
	if status.Signaled() {
		r.Signal = status.Signal()
		r.Code = 128 + int(r.Signal)
	}
	g.report(report{Ended: true, result: r})
	return true, nil
}

// report tells the other process. That one may be gone, and then nobody is left to be
// told.
func (g *guard) report(r report) {
	b, err := json.Marshal(r)
	if err != nil {
		panic("runner: encode report: " + err.Error()) // numbers and text only
	}
	_, _ = g.reports.Write(append(b, '\n'))
}

// isPipe says whether an open file is a pipe.
func isPipe(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO
}
