package runner

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/processes"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// A command that ends by itself is reported as it ended.
func TestEnd(t *testing.T) {
	cases := map[string]struct {
		args []string
		want result
	}{
		"success": {args: []string{"/bin/sh", "-c", "exit 0"}},
		"code":    {args: []string{"/bin/sh", "-c", "exit 3"}, want: result{Code: 3}},
		"signal":  {args: []string{"/bin/sh", "-c", "kill -USR1 $$"}, want: result{Code: 138, Signal: syscall.SIGUSR1}},
		"on path": {args: []string{"true"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g := guardIt(t, Config{}, tc.args...)
			g.wait(t)
			must.NoError(t, g.err)
			must.Eq(t, tc.want, g.result)
		})
	}
}

func TestNotRunnable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must.NoError(t, os.WriteFile(file, []byte("text"), 0o600))
	for name, code := range map[string]int{"/no/such/program": 127, "no-such-program": 127, file: 126} {
		t.Run(name, func(t *testing.T) {
			g := guardIt(t, Config{}, name)
			g.wait(t)
			must.ErrorContains(t, g.err, name)
			must.Eq(t, 0, g.process())
			must.Eq(t, code, g.result.Code)
		})
	}
}

// The command is asked first, and may use the grace.
func TestAsked(t *testing.T) {
	const script = `trap 'sleep 0.1; echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done`
	cases := map[string]func(g *guarded){
		"leadership lost":   func(g *guarded) { g.trust.lose(election.ErrLockLost) },
		"trust not renewed": func(g *guarded) { g.trust.frozen.Store(true) },
		"end of the run":    func(g *guarded) { g.end() },
	}
	for name, end := range cases {
		t.Run(name, func(t *testing.T) {
			out, read := output(t)
			g := guardIt(t, Config{Stdout: out, Grace: patience}, "/bin/sh", "-c", script)
			eventually(t, "it is ready", func() bool { return strings.Contains(read(), "ready") })
			end(g)
			g.wait(t)
			must.NoError(t, g.err)
			must.Eq(t, result{Code: 5, Asked: true}, g.result)
			must.Eq(t, "ready\nbye\n", read())
		})
	}
}

// Whatever happens, nothing of the command is left, and nothing of its group is there
// after the trust that was given out last, also if the command does not listen.
func TestDeadline(t *testing.T) {
	cases := map[string]func(t *testing.T, g *guarded){
		"leadership lost":   func(_ *testing.T, g *guarded) { g.trust.lose(election.ErrLockLost) },
		"trust not renewed": func(_ *testing.T, g *guarded) { g.trust.frozen.Store(true) },
		"guard frozen": func(t *testing.T, g *guarded) {
			must.NoError(t, g.guard.Process.Signal(syscall.SIGSTOP))
			g.trust.frozen.Store(true)
		},
		"guard frozen and leadership lost": func(t *testing.T, g *guarded) {
			must.NoError(t, g.guard.Process.Signal(syscall.SIGSTOP))
			g.trust.lose(election.ErrLockLost)
		},
	}
	for name, end := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			g := guardIt(t, Config{}, family(dir)...)
			allBeat(t, dir)
			end(t, g)
			g.wait(t)
			must.True(t, g.result.Killed)
			must.Len(t, 0, beating(t, dir))
			if strings.HasPrefix(name, "guard frozen") {
				// This process has no priority, so it is not promised to be in time.
				must.ErrorIs(t, g.err, errGuardKilled)
				return
			}
			must.NoError(t, g.err)
			for _, m := range members[:2] { // of the process group
				must.LessEq(t, g.trust.hard(), lastBeat(t, filepath.Join(dir, m)), must.Sprint(m))
			}
		})
	}
}

// With the end of the run the command has the kill timeout, as long as trust lasts.
func TestKillTimeout(t *testing.T) {
	dir := t.TempDir()
	g := guardIt(t, Config{KillTimeout: 2 * (soft + grace)}, family(dir)...)
	allBeat(t, dir)
	asked := election.Now()
	g.end()
	g.wait(t)
	must.NoError(t, g.err)
	must.Eq(t, result{Code: 137, Signal: syscall.SIGKILL, Asked: true, Killed: true}, g.result)
	// Trust was renewed meanwhile, so it had more than a window.
	must.Greater(t, asked+soft+grace, lastBeat(t, filepath.Join(dir, "command")))
	must.Len(t, 0, beating(t, dir))
}

// What a command leaves behind goes with it, also when it ended by itself.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	script := strings.Replace(family(dir)[2], "exec ", "while ! [ -s "+dir+"/orphan ]; do sleep 0.01; done; exit 0 # ", 1)
	g := guardIt(t, Config{}, "/bin/sh", "-c", script)
	g.wait(t)
	must.NoError(t, g.err)
	must.Eq(t, result{}, g.result)
	must.Len(t, 0, beating(t, dir))
}

// Orphans of a running command are not left as zombies.
func TestOrphansReaped(t *testing.T) {
	out, read := output(t)
	g := guardIt(t, Config{Stdout: out}, "/bin/sh", "-c", `(setsid sh -c 'echo $$; exit 0' &) ; sleep 600`)
	eventually(t, "the orphan was there", func() bool { return strings.HasSuffix(read(), "\n") })
	pid := strings.TrimSpace(read())
	eventually(t, "it is reaped", func() bool {
		_, err := os.Stat(filepath.Join("/proc", pid))
		return errors.Is(err, os.ErrNotExist)
	})
	must.NotEq(t, 0, g.process())
}

func TestGuardKilled(t *testing.T) {
	dir := t.TempDir()
	g := guardIt(t, Config{}, family(dir)...)
	allBeat(t, dir)
	must.NoError(t, g.guard.Process.Kill())
	g.wait(t)
	must.ErrorIs(t, g.err, errGuardKilled)
	must.Eq(t, 137, g.result.Code)
	must.Len(t, 0, beating(t, dir))
}

func TestSignals(t *testing.T) {
	out, read := output(t)
	signals := make(chan os.Signal, 1)
	guardIt(t, Config{Stdout: out, Signals: signals}, "/bin/sh", "-c",
		`trap 'echo reload' HUP; echo ready; while :; do sleep 0.01; done`)
	eventually(t, "it is ready", func() bool { return strings.Contains(read(), "ready") })
	signals <- syscall.SIGHUP
	eventually(t, "the signal has arrived", func() bool { return strings.Contains(read(), "reload") })
}

// A command is not begun without trust, and one that comes late is not missed.
func TestLate(t *testing.T) {
	overdue := order{Soft: 1, Hard: 2}
	begin := func() *command {
		c, err := startCommand([]string{os.Args[0], GuardCommand}, []string{"/bin/sh", "-c", "exit 3"}, os.Environ(), files{})
		must.NoError(t, err)
		must.NoError(t, c.tell(overdue))
		return c
	}
	c := begin()
	must.NoError(t, c.tell(order{Stop: election.Now()}))
	<-c.done
	must.True(t, c.late)
	must.Eq(t, 0, c.process())
	must.NoError(t, c.tell(overdue)) // to nobody

	c = begin()
	must.NoError(t, c.tell(order{Soft: election.Now() + patience, Hard: election.Now() + 2*patience}))
	<-c.done
	must.False(t, c.late)
	must.Eq(t, 3, c.result.Code)
}

// A runner that is frozen, or killed, takes its command with it in time.
func TestRunnerDies(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"frozen": syscall.SIGSTOP, "killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cmd := startRunner(t, dir)
			must.NoError(t, cmd.Process.Signal(sig))
			allGone(t, dir)
			b, err := os.ReadFile(filepath.Join(dir, "hard"))
			must.NoError(t, err)
			hard, err := strconv.ParseInt(string(b), 10, 64)
			must.NoError(t, err)
			for _, m := range members[:2] { // of the process group
				must.LessEq(t, time.Duration(hard), lastBeat(t, filepath.Join(dir, m)), must.Sprint(m))
			}
		})
	}
}

// If runner and guard are killed at once, the kernel ends the command itself.
func TestBothKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := startRunner(t, dir)
	b, err := os.ReadFile(filepath.Join(dir, "guard"))
	must.NoError(t, err)
	guard, err := strconv.Atoi(string(b))
	must.NoError(t, err)
	must.NoError(t, cmd.Process.Kill())
	must.NoError(t, processes.Kill(guard, syscall.SIGKILL))
	eventually(t, "the command is gone", func() bool {
		for _, p := range beating(t, dir) {
			if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), dir+"/command") {
				return false
			}
		}
		return true
	})
	// What it had started is not promised to be gone.
	for _, p := range beating(t, dir) {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		must.NoError(t, err)
		must.NoError(t, processes.Kill(pid, syscall.SIGKILL))
	}
	allGone(t, dir)
}

// A guard that is given nonsense ends without having run anything.
func TestGuardMisused(t *testing.T) {
	c, err := startCommand([]string{os.Args[0], GuardCommand}, nil, os.Environ(), files{})
	must.NoError(t, err)
	<-c.done
	must.ErrorContains(t, c.err, "no command is given")

	cmd := exec.Command(os.Args[0], GuardCommand, "/bin/true") // nobody gives orders
	must.Error(t, cmd.Run())
}
