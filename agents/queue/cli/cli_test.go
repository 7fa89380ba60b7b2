package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/queue/config"
	"github.com/nomad-patterns/nomad-patterns/agents/queue/internal/fake"
	"github.com/nomad-patterns/nomad-patterns/agents/queue/server"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

func TestMain(m *testing.M) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "QUEUE_") || strings.HasPrefix(name, "CONSUL_") || strings.HasPrefix(name, "NOMAD_") {
			if err := os.Unsetenv(name); err != nil {
				panic(err)
			}
		}
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what happens at once unless the code is broken.
const patience = 30 * time.Second

// run runs the command line.
func run(stdin string, args ...string) (code int, out, err string) {
	var o, e bytes.Buffer
	code = Main(args, strings.NewReader(stdin), &o, &e)
	return code, o.String(), e.String()
}

// fakeAgent serves a broker in memory at $QUEUE_ADDR. It notes the tokens that it is shown.
func fakeAgent(t *testing.T) (b *fake.Broker, tokens *[]string) {
	t.Helper()
	mux := http.NewServeMux()
	tokens = new([]string)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*tokens = append(*tokens, r.Header.Get("Authorization"))
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	b = &fake.Broker{Cluster: fake.NewCluster(), Address: "10.0.0.1:4050"}
	srv, err := server.New(server.Config{Broker: b, Address: b.Address})
	must.NoError(t, err)
	t.Cleanup(srv.Close)
	srv.Routes(mux.Handle)
	t.Setenv("QUEUE_ADDR", s.URL)
	return b, tokens
}

// work ends all items of a queue so.
func work(t *testing.T, b *fake.Broker, name string, action queue.Action) {
	t.Helper()
	for {
		res, err := b.Claim(t.Context(), name, queue.ClaimRequest{Worker: "w", Max: 100})
		must.NoError(t, err)
		if len(res.Items) == 0 {
			return
		}
		for _, it := range res.Items {
			_, err := b.Ack(t.Context(), name, it.ID.Shard, []queue.Ack{{ID: it.ID, Claim: it.Claim, Action: action, Reason: "exit code 3"}})
			must.NoError(t, err)
		}
	}
}

// TestCommands is the life of a queue; each step builds on those before.
func TestCommands(t *testing.T) {
	b, _ := fakeAgent(t)
	dir := t.TempDir()
	for _, name := range []string{"a.md", "b.md", "sub/c.md"} {
		must.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	file := filepath.Join(dir, "queues.hcl")
	must.NoError(t, os.WriteFile(file, []byte("queue \"x\" {}\nqueue \"y\" {\n  stage \"one\" {\n    next = \"two\"\n  }\n  stage \"two\" {}\n}\n"), 0o600))
	for _, c := range []struct {
		name     string
		args     []string
		stdin    string
		before   func()
		code     int
		out, err string
	}{
		{name: "nothing yet", args: []string{"ls"}, out: "no queues\n"},
		{name: "create", args: []string{"create", "-lease=5s", "docs"}, out: "docs: 1 shard, stage work\n"},
		{name: "create what", args: []string{"create"}, code: 1, err: "queue: give a queue, and nothing else\n"},
		{name: "create badly", args: []string{"create", "-lease=1ms", "docs"}, code: 2, err: "queue: queue \"docs\": stages[0].lease: 1ms is not between 1s and 1h0m0s\n"},
		{name: "create from a file", args: []string{"create", "-config", file}, out: "x: 1 shard, stage work\ny: 1 shard, stages one, two\n"},
		{name: "create one of a file", args: []string{"create", "-config", file, "y"}, out: "y: 1 shard, stages one, two\n"},
		{name: "create none of a file", args: []string{"create", "-config", file, "z"}, code: 1, err: "queue: the files have no such queue block\n"},
		{name: "delete", args: []string{"delete", "x"}, out: "x: deleted\n"},
		{name: "delete the other", args: []string{"delete", "y"}, out: "y: deleted\n"},

		{name: "put files", args: []string{"put", "docs", dir + "/a.md", dir + "/sub"}, out: "docs: 2 items added\n"},
		{name: "put a pattern", args: []string{"put", "docs", dir + "/*.md"}, out: "docs: 1 item added, 1 were there already\n"},
		{name: "put lines", args: []string{"put", "-key=", "-attr=k=v", "-priority=3", "docs", "-"}, stdin: "one\ntwo\none\n", out: "docs: 3 items added\n"},
		{name: "put with a key of its own", args: []string{"put", "-key=2026:{input}", "docs", "-"}, stdin: "one\n", out: "docs: 1 item added\n"},
		{name: "put what", args: []string{"put", "docs"}, code: 1, err: "queue: give a queue and an input\n"},
		{name: "put where", args: []string{"put", "nope", dir + "/a.md"}, code: 2, err: "queue: items from \"" + dir + "/a.md\" to \"" + dir + "/a.md\": queue \"nope\": no such queue\n"},
		{name: "put nothing", args: []string{"put", "docs", dir + "/a.md", dir + "/nope"}, code: 2, err: "queue: stat " + dir + "/nope: no such file or directory\n"},
		{name: "put to no stage", args: []string{"put", "-stage=x", "docs", "-"}, stdin: "one\n", code: 2, err: "queue: items from \"one\" to \"one\": items[0].stage: \"x\" is not one of [\"work\"]\n"},

		{name: "ls", args: []string{"ls"}, out: `QUEUE  STATE  ITEMS  READY  DELAYED  WAITING  IN FLIGHT  DONE  DEAD  OLDEST  WORKERS
docs   open   7      7      0        0        0          0     0     1.5s    0
`},
		{name: "recurring, none", args: []string{"recurring", "docs"}, out: "nothing is enqueued again and again\n"},
		{name: "recurring by cron", args: []string{"recurring", "-cron=30 3 * * *", "docs", "nightly", "/n"}, out: "docs: nightly set\n"},
		{name: "recurring by time", args: []string{"recurring", "-every=10m", "-attr=k=v", "docs", "often", "/o"}, out: "docs: often set\n"},
		{name: "recurring by nothing", args: []string{"recurring", "docs", "often", "/o"}, code: 1, err: "queue: give either -cron or -every\n"},
		{name: "recurring by both", args: []string{"recurring", "-cron=* * * * *", "-every=1s", "docs", "often", "/o"}, code: 1, err: "queue: give either -cron or -every\n"},
		{name: "recurring what", args: []string{"recurring", "-every=1s", "docs", "often"}, code: 1, err: "queue: give a queue and a name and an input, and nothing else\n"},
		{name: "recurring list", args: []string{"recurring", "docs"}, out: `NAME     WHEN         NEXT (UTC)  STAGE  INPUT
nightly  30 3 * * *   never       -      /n
often    every 10m0s  never       -      /o
`},
		{name: "recurring as JSON", args: []string{"recurring", "-json", "docs"}, out: `{"name":"nightly","cron":"30 3 * * *","item":{"input":"/n"}}` + "\n" + `{"name":"often","every":"10m0s","item":{"input":"/o","attrs":{"k":"v"}}}` + "\n"},
		{name: "recurring ended", args: []string{"recurring", "-delete", "docs", "often"}, out: "docs: often deleted\n"},
		{name: "recurring ended twice", args: []string{"recurring", "-delete", "docs", "often"}, code: 2, err: "queue: queue \"docs\": name: there is no recurring item \"often\"\n"},
		{name: "pause", args: []string{"pause", "docs"}, out: "docs: paused\n"},
		{name: "status", args: []string{"status", "docs"}, out: `Queue         docs
State         paused
Items         7 unfinished of 7 that were enqueued
Oldest        1.5s
Dead letters  0

STAGE  READY  DELAYED  WAITING  IN FLIGHT  HELD  DONE  FAILED  LOST  DEAD  CANCELLED
work   7      0        0        0          0     0     0       0     0     0

SHARD  LEADER         ERROR
0      10.0.0.1:4050  -
`},
		{name: "status of an item", args: []string{"status", "docs", "0-3"}, out: `Item      0-3
State     ready
Stage     work
Input     one
Worker    -
Progress  0 %
Failed    0
Lost      0
Output    -
Reason    -
`},
		{name: "status as JSON", args: []string{"status", "-json", "docs", "0-3"}, out: `{"id":"0-3","state":"ready","stage":"work","item":{"input":"one","attrs":{"k":"v"},"priority":3}}` + "\n"},
		{name: "status of no item", args: []string{"status", "docs", "x"}, code: 1, err: "queue: id: \"x\" is not the ID of an item, such as 0-17\n"},
		{name: "resume", args: []string{"resume", "docs"}, out: "docs: resumed\n"},
		{name: "cancel", args: []string{"cancel", "docs", "0-0", "0-99"}, out: "0-0: cancelled\n0-99: there is no such item\n"},
		{name: "no dead letters", args: []string{"dead", "docs"}, out: "no dead letters\n"},
		{name: "not done", args: []string{"wait", "-timeout=10ms", "docs"}, code: 4, err: "queue: queue \"docs\" is not done within 10ms\n"},
		{name: "wait for what", args: []string{"wait", "-state=x", "docs"}, code: 1, err: "queue: -state: \"x\" is neither done nor empty\n"},
		{name: "dead letters", args: []string{"dead", "-limit=1", "docs"}, before: func() { work(t, b, "docs", queue.Reject) }, out: "ITEM  STAGE  FAILED  LOST  WORKER  AT                   REASON       INPUT\n" +
			"0-1   work   1       0     w       " + time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC).Local().Format(time.DateTime) + "  exit code 3  " + dir + "/sub/c.md\n"},
		{name: "dead letters as JSON", args: []string{"dead", "-json", "-limit=1", "docs"}, out: `{"id":"0-1","stage":"work","reason":"exit code 3","failed":1,"worker":"w","at":"2026-11-25T12:00:00Z","item":{"input":"` + dir + `/sub/c.md","key":"` + dir + `/sub/c.md"}}` + "\n"},
		{name: "empty, with dead letters", args: []string{"wait", "-state=empty", "docs"}, code: 3, out: "docs: done, 6 dead letters\n"},
		{name: "delete what has dead letters", args: []string{"delete", "docs"}, code: 2, err: "queue: queue \"docs\" has 0 unfinished items and 6 dead letters, or cannot be looked at as a whole; give -force to remove it all the same\n"},
		{name: "redrive one", args: []string{"redrive", "docs", "0-1"}, out: "docs: 1 item enqueued again\n"},
		{name: "redrive one too many", args: []string{"redrive", "docs", "0-1", "0-2"}, code: 2, out: "docs: 1 item enqueued again\n", err: "queue: 1 of 2 were not among the dead letters\n"},
		{name: "redrive all", args: []string{"redrive", "docs"}, out: "docs: 4 items enqueued again\n"},
		{name: "purge", args: []string{"purge", "docs"}, out: "docs: 6 items cancelled\n"},
		{name: "seal", args: []string{"seal", "docs"}, out: "docs: sealed\n"},
		{name: "sealed", args: []string{"put", "docs", "-"}, stdin: "x\n", code: 2, err: "queue: items from \"x\" to \"x\": the queue is sealed and takes no more items\n"},
		{name: "done", args: []string{"wait", "docs"}, out: "docs: done, 0 dead letters\n"},
		{name: "finished", args: []string{"ls"}, out: `QUEUE  STATE     ITEMS  READY  DELAYED  WAITING  IN FLIGHT  DONE  DEAD  OLDEST  WORKERS
docs   finished  0      0      0        0        0          0     0     -       0
`},
		{name: "flags behind", args: []string{"ls", "x", "-json"}, code: 1, err: "queue: flags have to come before \"x\": -json\n"},
		{name: "watch too often", args: []string{"watch", "-interval=1ms", "docs"}, code: 1, err: "queue: -interval: 1ms is less than 50ms\n"},
		{name: "unknown", args: []string{"seal", "nope"}, code: 2, err: "queue: queue \"nope\": no such queue\n"},
		{name: "version", args: []string{"version"}, out: "queue " + agent.Version() + "\n"},
		{name: "agent, badly", args: []string{"agent", "-ttl=1ms"}, code: 1, err: "-ttl: 1ms is not between 1s and 1m0s\n"},
		{name: "agent, validated", args: []string{"agent", "-validate", "-id=x", "-config", file}, out: "The configuration is valid: broker x, 2 queues.\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.before != nil {
				c.before()
			}
			code, out, err := run(c.stdin, c.args...)
			must.Eq(t, c.err, err)
			must.Eq(t, c.out, out)
			must.Eq(t, c.code, code)
		})
	}
}

// A long list goes in batches that a broker takes.
func TestPutMany(t *testing.T) {
	b, tokens := fakeAgent(t)
	_, err := b.Create(t.Context(), "docs", queue.Config{})
	must.NoError(t, err)
	token := filepath.Join(t.TempDir(), "token")
	must.NoError(t, os.WriteFile(token, []byte("secret\n"), 0o600))
	var lines strings.Builder
	for i := range 2500 {
		fmt.Fprintf(&lines, "%0200d\n", i)
	}
	code, out, stderr := run(lines.String(), "put", "-token-file", token, "docs", "-")
	must.Eq(t, "", stderr)
	must.Eq(t, "docs: 2500 items added\n", out)
	must.Eq(t, 0, code)
	// 1000 items have more bytes than a batch may have.
	must.Greater(t, 3, len(*tokens))
	must.Eq(t, "Bearer secret", (*tokens)[0])
}

// Where nobody looks at a terminal, watch writes a line for each change.
func TestWatch(t *testing.T) {
	b, _ := fakeAgent(t)
	_, err := b.Create(t.Context(), "docs", queue.Config{})
	must.NoError(t, err)
	out, in := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- Main([]string{"watch", "-interval=50ms", "docs"}, nil, in, os.Stderr)
		_ = in.Close() // it never fails
	}()
	line := func() string {
		buf := make([]byte, 1000)
		n, err := out.Read(buf)
		must.NoError(t, err)
		_, text, _ := strings.Cut(string(buf[:n]), "  ")
		return text
	}
	must.Eq(t, "open  items 0  dead 0  workers 0  work: ready 0 in flight 0 done 0\n", line())
	_, err = b.Enqueue(t.Context(), "docs", 0, []queue.Item{{Input: "x"}})
	must.NoError(t, err)
	must.Eq(t, "open  items 1  dead 0  workers 0  work: ready 1 in flight 0 done 0\n", line())
	must.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGINT))
	_, err = io.Copy(io.Discard, out)
	must.NoError(t, err)
	must.Eq(t, 0, <-code)
}

// On a terminal the next table replaces the one before.
func TestWatchTerminal(t *testing.T) {
	var b bytes.Buffer
	w := watcher{out: &b, terminal: true}
	st := queue.Overview{Status: queue.Status{Queue: "a"}}
	must.NoError(t, w.show(&st))
	lines := strings.Count(b.String(), "\n")
	b.Reset()
	must.NoError(t, w.show(&st))
	must.StrHasPrefix(t, fmt.Sprintf("\x1b[%dA\x1b[JQueue", lines), b.String())
}

func TestNoAgent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "sock")
	p := &program{Program: &agent.Program{Name: "queue", Out: io.Discard, Err: io.Discard}}
	c := p.asking("x", "", "")
	must.NoError(t, c.Flags.Parse([]string{"-address", "unix://" + socket}))
	err := c.ask(time.Millisecond, func(ctx context.Context, client *queue.Client) error {
		_, err := client.List(ctx)
		return err
	})
	must.ErrorContains(t, err, "ask the agent (is it running at unix://"+socket+"?)")
	must.ErrorContains(t, err, "no such file")
}

// What comes from items cannot move the cursor.
func TestTable(t *testing.T) {
	var b bytes.Buffer
	table := newTable(&b)
	table.row("a\x1b[2J\n\tb\u009b", "")
	must.NoError(t, table.flush())
	must.Eq(t, "a?[2J??b?  -\n", b.String())
}

func TestHelp(t *testing.T) {
	code, out, _ := run("", "-help")
	must.Eq(t, 0, code)
	for _, name := range []string{
		"agent", "cancel", "create", "dead", "delete", "ls", "pause", "purge", "put", "recurring", "redrive", "resume", "seal", "status", "version", "wait", "watch",
	} {
		must.StrContains(t, out, "    "+name+" ")
		code, help, err := run("", name, "-help")
		must.Eq(t, 0, code)
		must.StrHasPrefix(t, "Usage: queue "+name, help+err)
		if name != "version" {
			must.StrContains(t, help+err, "Exit codes: 0")
		}
		must.StrNotContains(t, help+err, "=<value>", must.Sprint("a flag of "+name+" does not say what its value is"))
	}
}

// TestAgent runs the agent without a Consul: it serves, and ends when it is told to.
func TestAgent(t *testing.T) {
	dir, err := os.MkdirTemp("", "queue") // sockets need short paths
	must.NoError(t, err)
	defer func() { must.NoError(t, os.RemoveAll(dir)) }()
	socket := "unix://" + filepath.Join(dir, "sock")
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	get := config.AgentSource(fs)
	must.NoError(t, fs.Parse([]string{"-id=b", "-listen", socket, "-consul-address=127.0.0.1:1"}))
	cfg, err := get()
	must.NoError(t, err)
	cfg.Queues = []config.Queue{{Name: "docs"}}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- runAgent(ctx, cfg, hclog.NewNullLogger(), nil) }()
	code, out := 2, ""
	for begin := time.Now(); code != 0 && time.Since(begin) < patience; {
		code, out, _ = run("", "ls", "-json", "-address", socket)
	}
	var list queue.Overviews
	must.NoError(t, json.Unmarshal([]byte(out), &list))
	must.SliceEmpty(t, list.Queues)

	// Another one cannot have the socket.
	err = runAgent(ctx, cfg, hclog.NewNullLogger(), nil)
	must.ErrorContains(t, err, "another process listens at")
	must.Eq(t, agent.ExitRuntime, agent.ExitCode(err))

	stop()
	select {
	case err := <-done:
		// There is a service left at the Consul that it could not reach.
		must.ErrorIs(t, err, agent.ErrNotDrained)
	case <-time.After(patience):
		t.Fatal("the agent did not end")
	}
}

// late is a broker that learns only later which queues there are.
type late struct {
	*fake.Broker
	asked int
}

func (l *late) Health() error {
	if l.asked++; l.asked == 1 {
		return fmt.Errorf("consul is away")
	}
	return nil
}

func TestMakeQueues(t *testing.T) {
	b := &late{Broker: &fake.Broker{Cluster: fake.NewCluster(), Address: "x"}}
	_, err := b.Create(t.Context(), "old", queue.Config{MaxItems: 7})
	must.NoError(t, err)
	makeQueues(t.Context(), b, []config.Queue{{Name: "old"}, {Name: "new"}}, hclog.NewNullLogger())
	must.Eq(t, []string{"new", "old"}, b.Queues())
	cfg, err := b.Config("old")
	must.NoError(t, err)
	must.Eq(t, 7, cfg.MaxItems) // it stays as it is
}
