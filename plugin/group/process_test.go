package group

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/process"
)

// modeKey makes the test binary another plugin process of the same node.
const modeKey = "GROUP_TEST_MODE"

// otherProcess is that process. It works in the directory of the group, and is
// given the name of its task.
func otherProcess(mode string, args []string, stdin *bufio.Scanner) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	m := Member{Task: filepath.Base(args[0]), State: Starting}
	switch mode {
	case "once":
		return runOnce(dir, m)
	case "join":
		m.StopAfter = args[1:]
		stdin.Scan() // so that all begin at once
		_, err := Join(dir, m, time.Now, hclog.NewNullLogger())
		fmt.Println(err)
		return nil
	case "write":
		for {
			g, err := Join(dir, m, time.Now, hclog.NewNullLogger())
			if err != nil {
				return err
			}
			for _, change := range []func() error{g.Running, func() error { return g.Stopping("drained", true) }, g.Stopped} {
				if err := change(); err != nil {
					return err
				}
			}
		}
	case "member":
		return obey(dir, m, stdin)
	}
	return fmt.Errorf("no such mode")
}

// obey does what it is told line by line, and answers when it has done so.
func obey(dir string, m Member, stdin *bufio.Scanner) error {
	var g *Group
	for stdin.Scan() {
		var err error
		switch stdin.Text() {
		case "start", "recover":
			m.State = Starting
			if stdin.Text() == "recover" {
				m.State = Running
			}
			g, err = Join(dir, m, time.Now, hclog.NewNullLogger())
		case "run":
			err = g.Running()
		case "stop":
			err = g.Stopping("restarted", false)
		case "end":
			err = g.Stopped()
		}
		if err != nil {
			return err
		}
		fmt.Println("done")
	}
	return stdin.Err()
}

// hookTime is how long the hook of runOnce takes: long enough to be killed in.
const hookTime = 15 * time.Millisecond

// runOnce runs the hook created. It writes to a journal when the hook begins and
// ends, and what it finds there that must not be.
func runOnce(dir string, m Member) error {
	g, err := Join(dir, m, time.Now, hclog.NewNullLogger())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	journal := filepath.Join(dir, "journal")
	f, err := os.OpenFile(journal, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = g.Once(ctx, OnCreated, Facts{}, func(context.Context, Declaration) error {
		if done, err := g.Done(OnCreated); err != nil || done {
			return fmt.Errorf("runs after its end (%w)", err)
		}
		if err := alone(ctx, journal); err != nil {
			_, werr := fmt.Fprintln(f, err)
			return errors.Join(err, werr)
		}
		p := g.me()
		if _, err := fmt.Fprintf(f, "begin %d %d %s\n", p.PID, p.Start, p.Boot); err != nil {
			return err
		}
		time.Sleep(hookTime)
		_, err = fmt.Fprintf(f, "end %d\n", p.PID)
		return err
	})
	return err
}

// alone returns an error if somebody else runs the hook at this moment. A process
// that was killed lets go of its locks a moment before it counts as dead; one that
// was not comes to its end.
func alone(ctx context.Context, journal string) error {
	for {
		data, err := os.ReadFile(journal)
		if err != nil {
			return err
		}
		p, open := lastBegun(string(data))
		if !open || p.Dead() {
			return nil
		}
		if err := sleep(ctx, hookTime); err != nil {
			return fmt.Errorf("process %d runs it as well", p.PID)
		}
		after, err := os.ReadFile(journal)
		if err != nil {
			return err
		}
		if string(after) != string(data) {
			return fmt.Errorf("process %d runs it as well: it has ended now", p.PID)
		}
	}
}

func (g *Group) me() process.ID { return g.own().Writer }

// lastBegun returns who has begun last and has not ended.
func lastBegun(journal string) (p process.ID, open bool) {
	for line := range strings.Lines(journal) {
		var n process.ID
		if _, err := fmt.Sscanf(line, "begin %d %d %s", &n.PID, &n.Start, &n.Boot); err == nil {
			p, open = n, true
		} else if strings.HasPrefix(line, "end ") {
			open = false
		}
	}
	return p, open
}

// other is one more plugin process.
type other struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Scanner
	stderr strings.Builder
	ended  sync.Once
}

func startOther(t *testing.T, dir, mode string, args ...string) *other {
	t.Helper()
	self, err := os.Executable()
	must.NoError(t, err)
	o := &other{cmd: exec.Command(self, args...)}
	// The race detector would hold each process up for a second at its end.
	o.cmd.Env = append(os.Environ(), modeKey+"="+mode, "GORACE=atexit_sleep_ms=0")
	o.cmd.Dir, o.cmd.Stderr = dir, &o.stderr
	o.stdin, err = o.cmd.StdinPipe()
	must.NoError(t, err)
	stdout, err := o.cmd.StdoutPipe()
	must.NoError(t, err)
	o.stdout = bufio.NewScanner(stdout)
	must.NoError(t, o.cmd.Start())
	t.Cleanup(o.kill)
	return o
}

// kill is kill -9, and returns when the process is gone. How it ended is of no
// interest.
func (o *other) kill() {
	o.ended.Do(func() {
		_ = o.cmd.Process.Kill()
		_ = o.cmd.Wait()
	})
}

// wait returns how the process ended by itself.
func (o *other) wait(t *testing.T) {
	t.Helper()
	o.ended.Do(func() {
		err := o.cmd.Wait()
		must.NoError(t, err, must.Sprint(o.stderr.String()))
	})
}

// tell gives an order and waits until it is done.
func (o *other) tell(t *testing.T, order string) {
	t.Helper()
	_, err := fmt.Fprintln(o.stdin, order)
	must.NoError(t, err)
	must.True(t, o.stdout.Scan(), must.Sprint(o.stderr.String()))
	must.Eq(t, "done", o.stdout.Text())
}

// A hook whose process is killed at any moment is not lost, never runs twice at
// once, and does not run again after its end.
func TestProcesses_OnceKilled(t *testing.T) {
	const rounds, processes = 8, 4
	interrupted := 0
	for range rounds {
		dir := t.TempDir()
		journal := filepath.Join(dir, "journal")
		decl := join(t, dir, Member{Task: "declares", Hooks: hooks(OnCreated)})
		done := func() bool {
			done, err := decl.Done(OnCreated)
			must.NoError(t, err)
			return done
		}
		var all []*other
		start := func(i int) *other { return startOther(t, dir, "once", "task"+strconv.Itoa(i)) }
		for i := range processes {
			all = append(all, start(i))
		}
		deadline := time.Now().Add(patience)
		for kills := 0; !done() && kills < 20; {
			must.True(t, time.Now().Before(deadline))
			// Wait until somebody is in the hook, then kill it somewhere between
			// its begin and a bit after its end.
			data, err := os.ReadFile(journal)
			if p, open := lastBegun(string(data)); err == nil && open {
				time.Sleep(rand.N(hookTime * 5 / 4))
				for i, o := range all {
					if o.cmd.Process.Pid == p.PID {
						o.kill()
						all[i] = start(i)
						kills++
					}
				}
			}
			time.Sleep(time.Millisecond)
		}
		for _, o := range all {
			o.wait(t)
		}
		must.True(t, done())
		data, err := os.ReadFile(journal)
		must.NoError(t, err)
		text := string(data)
		must.StrNotContains(t, text, "as well", must.Sprint(text))
		must.StrContains(t, text, "end ")
		interrupted += strings.Count(text, "begin ") - strings.Count(text, "end ")

		again := startOther(t, dir, "once", "late")
		again.wait(t)
		after, err := os.ReadFile(journal)
		must.NoError(t, err)
		must.Eq(t, text, string(after))
	}
	must.Positive(t, interrupted, must.Sprint("no kill has hit a hook"))
}

// Of processes that close a circle by joining at once, at least one is refused.
func TestProcesses_CircleAtOnce(t *testing.T) {
	for range 8 {
		dir := t.TempDir()
		all := []*other{
			startOther(t, dir, "join", "a", "b"),
			startOther(t, dir, "join", "b", "c"),
			startOther(t, dir, "join", "c", "a"),
		}
		for _, o := range all {
			_, err := fmt.Fprintln(o.stdin, "go")
			must.NoError(t, err)
		}
		refused := 0
		for _, o := range all {
			must.True(t, o.stdout.Scan(), must.Sprint(o.stderr.String()))
			if answer := o.stdout.Text(); answer != "<nil>" {
				must.StrContains(t, answer, "goes in a circle")
				refused++
			}
			o.wait(t)
		}
		must.Positive(t, refused)
		g := join(t, dir, Member{Task: "looks"})
		members, err := g.Members()
		must.NoError(t, err)
		must.Len(t, 1+len(all)-refused, members)
	}
}

// A writer that is killed at any moment leaves a whole file.
func TestProcesses_WriterKilled(t *testing.T) {
	dir := t.TempDir()
	var log listener
	g, err := Join(dir, Member{Task: "reads", State: Starting}, time.Now, log.logger())
	must.NoError(t, err)
	for range 8 {
		o := startOther(t, dir, "write", "web")
		deadline := time.Now().Add(patience)
		alive := func() bool {
			members, err := g.Members()
			must.NoError(t, err)
			return len(members) == 2 && members[1].Writer.PID == o.cmd.Process.Pid && !members[1].Lost
		}
		for !alive() {
			must.True(t, time.Now().Before(deadline), must.Sprint(o.stderr.String()))
		}
		for end := time.Now().Add(rand.N(10 * time.Millisecond)); time.Now().Before(end); {
			alive()
		}
		o.kill()
		members, err := g.Members()
		must.NoError(t, err)
		must.Len(t, 2, members)
		must.True(t, members[1].Lost)
	}
	must.Eq(t, "", log.String())
}

// A predecessor is waited for over the death and the recovery of its plugin.
func TestProcesses_PluginKilled(t *testing.T) {
	dir := t.TempDir()
	first := startOther(t, dir, "member", "web")
	first.tell(t, "start")
	first.tell(t, "run")
	proxy := join(t, dir, Member{Task: "proxy", StopAfter: []string{"web"}})
	must.NoError(t, proxy.Running())
	first.tell(t, "stop")
	// Of a whole stop, so that a busy machine has more than the settle time
	// between recovery and stop.
	must.NoError(t, proxy.Stopping("drained", true))

	reports := make(chan Report, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		r, err := proxy.AwaitPredecessors(soon(t), Facts{})
		must.NoError(t, err)
		reports <- r
	})
	first.kill()
	second := startOther(t, dir, "member", "web")
	second.tell(t, "recover")
	second.tell(t, "stop")
	select {
	case r := <-reports:
		t.Fatalf("did not wait: %v", r.Waits)
	case <-time.After(2 * settle):
	}
	second.tell(t, "end")
	wg.Wait()
	r := <-reports
	must.Len(t, 1, r.Waits)
	must.Eq(t, HasStopped, r.Waits[0].End)
	must.GreaterEq(t, 2*settle, r.Waits[0].For)
}
