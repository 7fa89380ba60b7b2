package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
)

// runner is an "elector run" whose command holds a lock of the kernel. If the commands of
// two of them ever run at the same time, one of them does not get it, and says so.
type runner struct {
	t       *testing.T
	id      string
	cmd     *exec.Cmd
	journal string // shared
	ended   chan struct{}
}

// run starts one. The lock is inherited by a grandchild in a session of its own.
func (b *electorBench) run(t *testing.T, dir, election, id string, agent int, args ...string) *runner {
	t.Helper()
	r := &runner{t: t, id: id, journal: filepath.Join(dir, "journal"), ended: make(chan struct{})}
	script := fmt.Sprintf(`
exec 9>%[1]s/lock
if ! flock -n 9; then echo %[2]s overlap >>%[1]s/journal; exit 99; fi
echo %[2]s started $ELECTION_TOKEN >>%[1]s/journal
setsid sleep 600 &
trap 'echo %[2]s asked >>%[1]s/journal; exit 0' TERM
while :; do sleep 0.05; done`, dir, id)
	args = append([]string{"run", "-election=" + election, "-id=" + id}, args...)
	r.cmd = exec.Command(b.program, append(args, "--", "/bin/sh", "-c", script)...)
	r.cmd.Env = append(os.Environ(), b.consul.Env(b.consul.ClientAddr(agent))...)
	r.cmd.Stderr = os.Stderr
	must.NoError(t, r.cmd.Start())
	go func() {
		_ = r.cmd.Wait() // its exit code is in the state
		close(r.ended)
	}()
	t.Cleanup(func() {
		_ = r.cmd.Process.Signal(syscall.SIGCONT) // it may have ended
		_ = r.cmd.Process.Signal(syscall.SIGTERM)
		<-r.ended
	})
	return r
}

// lines are what the commands have written.
func (r *runner) lines() []string {
	b, err := os.ReadFile(r.journal)
	if err != nil {
		return nil // not there yet
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for _, l := range lines {
		if strings.HasSuffix(l, " overlap") {
			r.t.Fatalf("two commands at once: %q", lines)
		}
	}
	return lines
}

// running waits until this one has started its command as the last of all, for the
// n-th time.
func (r *runner) running(n int) {
	r.t.Helper()
	await(r.t, fmt.Sprintf("the command of %s runs, for the %d. time", r.id, n), func() bool {
		lines := r.lines()
		started := 0
		for _, l := range lines {
			if strings.HasPrefix(l, r.id+" started ") {
				started++
			}
		}
		return started == n && strings.HasPrefix(lines[len(lines)-1], r.id+" started ")
	})
}

// A command runs in one place at a time, whatever happens to those who run it.
func TestElectorRun(t *testing.T) {
	b := newElectorBench(t)
	for name, mode := range map[string]string{"balanced": "balanced", "strict": "strict"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			election := "run-" + mode
			dir := t.TempDir()
			x := b.run(t, dir, election, mode+"-x", 0, "-mode="+mode)
			x.running(1)
			y := b.run(t, dir, election, mode+"-y", 1, "-mode="+mode)

			// Told to end: the command is asked, and the other one takes over.
			must.NoError(t, x.cmd.Process.Signal(syscall.SIGTERM))
			<-x.ended
			must.Eq(t, 0, x.cmd.ProcessState.ExitCode())
			must.SliceContains(t, x.lines(), mode+"-x asked")
			y.running(1)

			// Frozen for long: the guard ends the command; later it takes part again.
			z := b.run(t, dir, election, mode+"-z", 0, "-mode="+mode)
			must.NoError(t, y.cmd.Process.Signal(syscall.SIGSTOP))
			z.running(1)
			must.NoError(t, y.cmd.Process.Signal(syscall.SIGCONT))

			// Killed.
			must.NoError(t, z.cmd.Process.Kill())
			<-z.ended
			y.running(2)

			// An operator destroys the session.
			w := b.run(t, dir, election, mode+"-w", 1, "-mode="+mode)
			key, _, err := b.consul.Server(0).KV().Get("election/leader/"+election, nil)
			must.NoError(t, err)
			_, err = b.consul.Server(0).Session().Destroy(key.Session, nil)
			must.NoError(t, err)
			await(t, "somebody has started again", func() bool {
				lines := y.lines()
				last := lines[len(lines)-1]
				return strings.Contains(last, "-w started ") || strings.HasPrefix(last, y.id+" started ") && strings.Count(strings.Join(lines, "\n"), y.id+" started ") == 3
			})
			_ = w.lines()
		})
	}
	t.Run("exit code", func(t *testing.T) {
		for command, code := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -KILL $$": 137} {
			cmd := exec.CommandContext(t.Context(), b.program, "run", "-election=code", "--", "/bin/sh", "-c", command)
			cmd.Env = append(os.Environ(), b.consul.Env(b.consul.ClientAddr(0))...)
			out, err := cmd.CombinedOutput()
			must.Eq(t, code, cmd.ProcessState.ExitCode(), must.Sprint(string(out), err))
		}
		cmd := exec.CommandContext(t.Context(), b.program, "run", "-election=code", "--", "/no/such/program")
		cmd.Env = append(os.Environ(), b.consul.Env(b.consul.ClientAddr(0))...)
		out, err := cmd.CombinedOutput()
		must.Eq(t, 127, cmd.ProcessState.ExitCode(), must.Sprint(string(out), err))
		must.StrContains(t, string(out), "/no/such/program")
	})
	t.Run("restart", func(t *testing.T) {
		journal := filepath.Join(t.TempDir(), "journal")
		cmd := exec.Command(b.program, "run", "-election=restart", "-restart", "--", "/bin/sh", "-c", "echo x >>"+journal+"; exit 1")
		cmd.Env = append(os.Environ(), b.consul.Env(b.consul.ClientAddr(0))...)
		must.NoError(t, cmd.Start())
		await(t, "it has run several times", func() bool {
			text, err := os.ReadFile(journal)
			return err == nil && strings.Count(string(text), "x") >= 3
		})
		must.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		// 1 if the command had just ended.
		if err := cmd.Wait(); err != nil {
			must.Eq(t, 1, cmd.ProcessState.ExitCode())
		}
	})
}
