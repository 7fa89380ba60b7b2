package pool

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/files"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/internal/fake"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/run"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what happens at once unless the code is broken.
const patience = 30 * time.Second

// scene is a worker of a fake broker that runs a script for each item.
type scene struct {
	*fake.Broker
	*Pool
	in, out string
	done    chan error
}

func start(t *testing.T, b *fake.Broker, script string, change func(*Config)) *scene {
	t.Helper()
	s := &scene{Broker: b, in: t.TempDir(), out: t.TempDir(), done: make(chan error, 1)}
	must.NoError(t, os.WriteFile(filepath.Join(s.in, "x"), []byte("text"), 0o600))
	way, err := run.New(run.Config{Command: []string{"/bin/sh", "-c", script}, Grace: 200 * time.Millisecond})
	must.NoError(t, err)
	places, err := files.New(t.Context(), files.Config{Queue: fake.Queue, InputDirs: []string{s.in}, Output: s.out, WorkDir: t.TempDir()})
	must.NoError(t, err)
	client, err := queue.NewClient(queue.ClientConfig{Addresses: []string{b.URL}})
	must.NoError(t, err)
	cfg := Config{Broker: client, Files: places, Way: way, Queue: fake.Queue, Worker: "w", DrainTimeout: patience, Grace: time.Second, SweepEvery: -1}
	if change != nil {
		change(&cfg)
	}
	s.Pool = New(cfg)
	go func() { s.done <- s.Run(context.Background()) }()
	t.Cleanup(func() {
		drain, cut := context.WithCancel(context.Background())
		cut()
		_ = s.Drain(drain) // what is still being done does not matter
		s.ended(t)
		must.NoError(t, places.Close())
		must.NoError(t, way.Close())
		client.Close()
	})
	return s
}

// ended waits for the end of Run.
func (s *scene) ended(t *testing.T) {
	t.Helper()
	select {
	case err := <-s.done:
		s.done <- err
		must.NoError(t, err)
	case <-time.After(patience):
		t.Fatal("the pool does not end")
	}
}

// published is the output of the item, empty if there is none.
func (s *scene) published() string {
	b, _ := os.ReadFile(filepath.Join(s.out, "x"))
	return string(b)
}

// What the end of a command means.
func TestEnds(t *testing.T) {
	for name, c := range map[string]struct {
		script, state, reason string
		action                queue.Action
		max                   time.Duration
		input                 string
	}{
		"done":         {script: `cat "$WQ_INPUT" >"$WQ_OUTPUT"`, state: "done", action: queue.Done},
		"rejected":     {script: "echo no such thing >&2; exit 65", state: "dead", action: queue.Reject, reason: "exit code 65: no such thing"},
		"try later":    {script: "exit 75", state: "delayed", action: queue.Retry, reason: "exit code 75"},
		"other code":   {script: "echo a >&2; echo b >&2; exit 3", state: "delayed", action: queue.Retry, reason: "exit code 3: a | b"},
		"signal":       {script: "kill -9 $$", state: "delayed", action: queue.Retry, reason: "killed by a signal: killed"},
		"skipped":      {script: "exit 99", state: "done", action: queue.Skip},
		"no output":    {script: "true", state: "delayed", action: queue.Retry, reason: "the output was not written"},
		"no input":     {script: "true", state: "delayed", action: queue.Retry, reason: "no such file", input: "none"},
		"escape":       {script: "true", state: "dead", action: queue.Reject, reason: "in none of the directories", input: "../x"},
		"max_runtime":  {script: "exec sleep 60", state: "delayed", action: queue.Retry, reason: "max_runtime", max: 50 * time.Millisecond},
		"bad emit":     {script: `echo "{" >"$WQ_EMIT"`, state: "dead", action: queue.Reject, reason: "line 1 of $WQ_EMIT"},
		"environment":  {script: `test "$WQ_QUEUE-$WQ_STAGE-$WQ_ITEM-$WQ_ATTR_A_B" = q-first-0-0-v && cat $WQ_INPUT >$WQ_OUTPUT`, state: "done", action: queue.Done},
		"left a child": {script: `sleep 60 & cat "$WQ_INPUT" >"$WQ_OUTPUT"`, state: "done", action: queue.Done},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fake.New(t)
			b.MaxRuntime = c.max
			if c.input == "" {
				c.input = "x"
			}
			b.Put(queue.Item{Input: c.input, Attrs: map[string]string{"a-b": "v"}})
			s := start(t, b, c.script, nil)
			b.UntilState(t, 0, c.state)
			must.NoError(t, s.Drain(t.Context()))
			s.ended(t)
			ack := b.Get(0).Ack
			must.Eq(t, c.action, ack.Action)
			must.StrContains(t, ack.Reason, c.reason)
			want := ""
			if c.action == queue.Done {
				want = "text"
			}
			must.Eq(t, want, s.published())
			left, err := os.ReadDir(filepath.Join(s.out, ".wq", fake.Queue))
			must.NoError(t, err)
			must.SliceEmpty(t, left)
		})
	}
}

// Work that nobody wants any more is killed at once, whatever it does about SIGTERM.
func TestUnwanted(t *testing.T) {
	for name, end := range map[string]func(*fake.Broker){
		"lost":      func(b *fake.Broker) { b.Lose(0) },
		"cancelled": func(b *fake.Broker) { b.Cancel(0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fake.New(t)
			b.Lease, b.NoExpiry = 150*time.Millisecond, true
			b.Put(queue.Item{Input: "x"})
			s := start(t, b, `trap "" TERM; echo 0.5 >"$WQ_PROGRESS"; while :; do sleep 0.05; done`, func(c *Config) { c.IdleExit = 100 * time.Millisecond })
			b.Until(t, "progress is told", func(items []*fake.Item) bool { return items[0].Done == 0.5 })
			s.Stop() // so that it does not claim it again
			end(b)
			s.ended(t)
			must.Eq(t, "", s.published())
		})
	}
}

func TestDrain(t *testing.T) {
	for name, c := range map[string]struct {
		timeout      time.Duration
		state, error string
	}{
		"in time":     {patience, "done", ""},
		"not in time": {time.Millisecond, "ready", "given back"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fake.New(t)
			b.Lease, b.NoExpiry = 150*time.Millisecond, true
			b.Put(queue.Item{Input: "x"}, queue.Item{Input: "x"})
			gate := filepath.Join(t.TempDir(), "gate")
			s := start(t, b, `echo 0.5 >"$WQ_PROGRESS"; while [ ! -e `+gate+` ]; do sleep 0.02; done; cat "$WQ_INPUT" >"$WQ_OUTPUT"`, func(cfg *Config) { cfg.DrainTimeout = c.timeout })
			b.Until(t, "progress is told", func(items []*fake.Item) bool { return items[0].Done == 0.5 })
			drained := make(chan error, 1)
			go func() { drained <- s.Drain(context.Background()) }()
			<-s.stopping
			if c.error == "" {
				must.NoError(t, os.WriteFile(gate, nil, 0o600))
			}
			err := <-drained
			must.Eq(t, c.error != "", err != nil)
			if err != nil {
				must.ErrorContains(t, err, c.error)
			}
			must.Eq(t, c.state, b.Get(0).State)
			must.Eq(t, 0, b.Get(0).Failed)
			must.Eq(t, "ready", b.Get(1).State) // nothing more was claimed
		})
	}
}

func TestLeaves(t *testing.T) {
	t.Run("idle", func(t *testing.T) {
		b := fake.New(t)
		b.Put(queue.Item{Input: "x"})
		s := start(t, b, `cat "$WQ_INPUT" >"$WQ_OUTPUT"`, func(c *Config) { c.IdleExit = 50 * time.Millisecond })
		s.ended(t)
		must.Eq(t, "done", b.Get(0).State)
	})
	t.Run("finished", func(t *testing.T) {
		b := fake.New(t)
		b.Put(queue.Item{Input: "x"})
		b.Seal()
		s := start(t, b, `cat "$WQ_INPUT" >"$WQ_OUTPUT"`, func(c *Config) { c.UntilFinished = true })
		s.ended(t)
		must.Eq(t, "done", b.Get(0).State)
	})
}

// An answer that is lost is asked for again: the ack is a duplicate, the output is there.
func TestDuplicateAck(t *testing.T) {
	b := fake.New(t)
	lost := make(chan struct{}, 1)
	b.After(func(path string) bool {
		if !strings.HasSuffix(path, "/ack") {
			return false
		}
		select {
		case lost <- struct{}{}:
			return true
		default:
			return false
		}
	})
	b.Put(queue.Item{Input: "x"})
	s := start(t, b, `cat "$WQ_INPUT" >"$WQ_OUTPUT"`, nil)
	b.Until(t, "two acks", func(items []*fake.Item) bool { return len(items[0].Acks) == 2 })
	must.NoError(t, s.Drain(t.Context()))
	must.Eq(t, []queue.Verdict{queue.Accepted, queue.Duplicate}, b.Get(0).Acks)
	must.Eq(t, "text", s.published())
}
