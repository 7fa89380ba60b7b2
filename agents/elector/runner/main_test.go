package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/processes"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// patience is how long a test waits for what happens at once unless the code is broken.
const patience = 30 * time.Second

// The test binary is also the guard, the command under it, and a whole runner that a
// test may freeze or kill.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case GuardCommand:
			os.Exit(Guard(os.Args[2:]))
		case "beat":
			os.Exit(beat(os.Args[2]))
		case "runner":
			os.Exit(runnerProcess(os.Args[2]))
		}
	}
	if err := processes.BecomeReaper(); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// The trust window of most tests, in its two parts. It is short, because each test
// waits for its end.
const (
	soft  = 500 * time.Millisecond
	grace = 300 * time.Millisecond
)

// beat is a command that appends the time to a file until it is killed. It does not
// obey SIGTERM.
func beat(path string) int {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 1
	}
	for {
		if _, err := fmt.Fprintln(f, int64(election.Now())); err != nil {
			return 1
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// lastBeat is the last whole line of the file.
func lastBeat(t *testing.T, path string) time.Duration {
	t.Helper()
	b, err := os.ReadFile(path)
	must.NoError(t, err)
	lines := strings.Split(string(b), "\n")
	must.Greater(t, 1, len(lines))
	n, err := strconv.ParseInt(lines[len(lines)-2], 10, 64)
	must.NoError(t, err)
	return time.Duration(n)
}

// fakeTrust is a leadership that is confirmed whenever somebody looks, until it is
// frozen or lost.
type fakeTrust struct {
	ctx    context.Context
	lose   context.CancelCauseFunc
	soft   time.Duration // part of the window before the grace
	grace  time.Duration
	frozen atomic.Bool
	until  atomic.Int64
	told   func(hard time.Duration) // before anybody else learns of it; may be nil
}

func newTrust(soft, grace time.Duration) *fakeTrust {
	f := &fakeTrust{soft: soft, grace: grace}
	f.ctx, f.lose = context.WithCancelCause(context.Background())
	return f
}

func (f *fakeTrust) Until() time.Duration {
	if !f.frozen.Load() {
		hard := election.Now() + f.soft + f.grace
		if f.told != nil {
			f.told(hard)
		}
		f.until.Store(int64(hard))
	}
	return f.hard() - f.grace
}

// hard is the end of trust that was told last.
func (f *fakeTrust) hard() time.Duration { return time.Duration(f.until.Load()) }

func (f *fakeTrust) Election() string { return "x" }
func (f *fakeTrust) Token() uint64    { return 7 }
func (f *fakeTrust) Term() uint64     { return 1 }

func (f *fakeTrust) Done() <-chan struct{} { return f.ctx.Done() }

func (f *fakeTrust) Err() error {
	if f.ctx.Err() == nil {
		return nil
	}
	return context.Cause(f.ctx)
}

// runnerProcess runs a beating command with a child that beats as well, and notes the
// ends of trust that it gives out. All files lie in dir.
func runnerProcess(dir string) int {
	if err := processes.BecomeReaper(); err != nil {
		return 1
	}
	f := newTrust(soft, grace)
	f.told = func(hard time.Duration) {
		tmp := filepath.Join(dir, "hard.new")
		if os.WriteFile(tmp, []byte(strconv.FormatInt(int64(hard), 10)), 0o600) != nil ||
			os.Rename(tmp, filepath.Join(dir, "hard")) != nil {
			os.Exit(1)
		}
	}
	c, err := startCommand([]string{os.Args[0], GuardCommand}, family(dir), os.Environ(), files{})
	if err != nil {
		return 1
	}
	if err := os.WriteFile(filepath.Join(dir, "guard"), []byte(strconv.Itoa(c.guard.Process.Pid)), 0o600); err != nil {
		return 1
	}
	cfg, err := Config{Command: []string{"x"}, Grace: grace}.withDefaults()
	if err != nil {
		return 1
	}
	guide(f.ctx, cfg, f, c)
	return 0
}

// family is a command with a child in its process group, one in a session of its own,
// and an orphan in a session of its own. All beat.
func family(dir string) []string {
	self := os.Args[0]
	return []string{"/bin/sh", "-c", fmt.Sprintf(`
trap '' TERM
%[1]s beat %[2]s/child &
setsid %[1]s beat %[2]s/session &
(setsid %[1]s beat %[2]s/orphan &)
exec %[1]s beat %[2]s/command`, self, dir)}
}

// members are the files that family writes to.
var members = []string{"command", "child", "session", "orphan"}

// allBeat waits until all members of a family have written.
func allBeat(t *testing.T, dir string) {
	t.Helper()
	for _, m := range members {
		eventually(t, m+" beats", func() bool {
			b, err := os.ReadFile(filepath.Join(dir, m))
			return err == nil && strings.Count(string(b), "\n") > 2
		})
	}
}

// allGone waits until no process of the family is left.
func allGone(t *testing.T, dir string) {
	t.Helper()
	eventually(t, "no process beats", func() bool { return len(beating(t, dir)) == 0 })
}

// beating lists the processes that write to files in dir.
func beating(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must.NoError(t, err)
	var list []string
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(b), "beat\x00"+dir+"/") {
			list = append(list, p)
		}
	}
	return list
}

// eventually polls until ok is true, for states that nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// guarded is a command under guide.
type guarded struct {
	*command
	trust *fakeTrust
	end   context.CancelFunc // the term, as Run's ctx does
	done  chan struct{}      // guide has returned
}

// guardIt starts a command. It is gone at the end of the test.
func guardIt(t *testing.T, cfg Config, args ...string) *guarded {
	t.Helper()
	if cfg.Grace == 0 {
		cfg.Grace = grace
	}
	cfg.Command = args
	cfg, err := cfg.withDefaults()
	must.NoError(t, err)
	g := &guarded{trust: newTrust(soft, cfg.Grace), done: make(chan struct{})}
	g.command, err = startCommand([]string{os.Args[0], GuardCommand}, args, os.Environ(), files{stdout: cfg.Stdout, stderr: os.Stderr})
	must.NoError(t, err)
	term, end := context.WithCancel(g.trust.ctx)
	g.end = end
	go func() {
		defer close(g.done)
		guide(term, cfg, g.trust, g.command)
	}()
	t.Cleanup(func() {
		g.trust.lose(errors.New("end of the test"))
		end()
		<-g.done
		if t.Failed() {
			t.Logf("process %d, late %v, result %+v, error %v", g.process(), g.late, g.result, g.err)
		}
	})
	return g
}

// wait waits for the end of the command.
func (g *guarded) wait(t *testing.T) {
	t.Helper()
	select {
	case <-g.done:
	case <-time.After(patience):
		t.Fatal("the command does not end")
	}
}

// output is a file for the output of a command, and what it holds.
func output(t *testing.T) (*os.File, func() string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "output"))
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, f.Close()) })
	return f, func() string {
		b, err := os.ReadFile(f.Name())
		must.NoError(t, err)
		return string(b)
	}
}

// startRunner starts runnerProcess and waits until all of its family beats.
func startRunner(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "runner", dir)
	cmd.Stderr = os.Stderr
	must.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone
		_ = cmd.Wait()
	})
	allBeat(t, dir)
	return cmd
}
