package config

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// load reads a configuration, written to a file, with flags. FILE in the error stands
// for the file's path.
func load(t *testing.T, content string, args ...string) (*Agent, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "a.hcl")
	must.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	get := AgentSource(fs)
	must.NoError(t, fs.Parse(append([]string{"-config", file}, args...)))
	cfg, err := get()
	if err != nil {
		must.Eq(t, agent.ExitConfig, agent.ExitCode(err))
		err = fmt.Errorf("%s", strings.ReplaceAll(err.Error(), file, "FILE"))
	}
	return cfg, err
}

// bare keeps the machine's environment out of a test.
func bare(t *testing.T) {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		for _, prefix := range []string{"NOMAD_", "CONSUL_", "QUEUE_"} {
			if strings.HasPrefix(name, prefix) {
				t.Setenv(name, "")
			}
		}
	}
}

func TestDefaults(t *testing.T) {
	bare(t)
	a, err := load(t, "")
	must.NoError(t, err)
	host, err := os.Hostname()
	must.NoError(t, err)
	must.StrHasPrefix(t, host+"-", a.Broker.ID)
	must.Eq(t, "queue", a.Broker.Prefix)
	must.Eq(t, "queue-broker", a.Broker.Service)
	must.Eq(t, "", a.Broker.Address)
	must.Eq(t, 1500*time.Millisecond, a.Broker.TTL)
	must.Eq(t, "127.0.0.1:4050", a.Listen.Address.V)
	must.Eq(t, 10*time.Second, a.DrainTimeout)
	must.Eq(t, hclog.Info, a.Log.Level)
	must.SliceEmpty(t, a.Queues)
}

const full = `
id            = "b-1"
advertise     = "10.0.0.7:4050"
prefix        = "a/b"
ttl           = "2s"
service       = "brokers"
log_level     = "debug"
log_json      = true
drain_timeout = "20s"

consul {
  address = "http://consul:8500"
}

listen {
  address = "unix:///run/queue.sock"
}

queue "docs" {
  shards    = 1
  retention = "1h"
  max_items = 1000
  max_dead  = 10
  stage "words" {
    lease         = "5s"
    max_runtime   = "1m"
    max_failed    = 2
    max_lost      = 4
    backoff       = "2s"
    max_backoff   = "1m"
    max_in_flight = 8
    rate          = 2.5
    next          = "merge"
    scale {
      job = "words-worker"
      max = 5
    }
  }
  stage "merge" {
    collect = 100
  }
}

queue "plain" {}
`

func TestFull(t *testing.T) {
	bare(t)
	a, err := load(t, full)
	must.NoError(t, err)
	b := a.Broker
	must.Eq(t, "http://consul:8500", b.Consul.Address)
	b.Consul = nil
	must.Eq(t, queue.BrokerConfig{ID: "b-1", Address: "10.0.0.7:4050", Prefix: "a/b", TTL: 2 * time.Second, Service: "brokers"}, b)
	must.Eq(t, agent.LogConfig{Level: hclog.Debug, JSON: true}, a.Log)
	must.Eq(t, 20*time.Second, a.DrainTimeout)
	must.SliceLen(t, 2, a.Queues)
	docs := a.Queues[0]
	must.Eq(t, "docs", docs.Name)
	must.Eq(t, queue.Stage{
		Name: "words", Lease: queue.Duration(5 * time.Second), MaxRuntime: queue.Duration(time.Minute), MaxFailed: 2, MaxLost: 4,
		Backoff: queue.Duration(2 * time.Second), MaxBackoff: queue.Duration(time.Minute), MaxInFlight: 8, Rate: 2.5, Next: "merge",
		Scale: &queue.Scale{Job: "words-worker", Namespace: "default", Max: 5, ItemsPerWorker: 10},
	}, docs.Config.Stages[0])
	must.Eq(t, 100, docs.Config.Stages[1].Collect)
	must.Eq(t, queue.Duration(time.Hour), docs.Config.Retention)
	must.Eq(t, "work", a.Queues[1].Config.Stages[0].Name)
}

func TestFlagsAndEnvironment(t *testing.T) {
	bare(t)
	t.Setenv("QUEUE_ID", "from-env")
	t.Setenv("QUEUE_TTL", "3s")
	t.Setenv("QUEUE_ADVERTISE", "x:1")
	a, err := load(t, full, "-ttl=4s", "-listen=127.0.0.1:0", "-prefix=p")
	must.NoError(t, err)
	must.Eq(t, "from-env", a.Broker.ID)
	must.Eq(t, "x:1", a.Broker.Address)
	must.Eq(t, 4*time.Second, a.Broker.TTL)
	must.Eq(t, "p", a.Broker.Prefix)
	must.Eq(t, "127.0.0.1:0", a.Listen.Address.V)
}

func TestProblems(t *testing.T) {
	bare(t)
	for name, c := range map[string]struct{ content, want string }{
		"unknown key":     {"tll = 1", `FILE:1:1: Unsupported argument; An argument named "tll" is not expected here. Did you mean "ttl"?`},
		"id":              {`id = "a b"`, `FILE:1:6: id: "a b" is not 1 to 128 letters, digits, dots, underscores and dashes beginning with a letter or digit`},
		"prefix":          {`prefix = "/a"`, `FILE:1:10: prefix: "/a" is not a path of letters, digits, dots, underscores and dashes without a slash at its ends`},
		"ttl":             {`ttl = "500ms"`, "FILE:1:7: ttl: 500ms is not between 1s and 1m0s"},
		"drain timeout":   {`drain_timeout = "1h"`, "FILE:1:17: drain_timeout: 1h0m0s is not between 1s and 10m0s"},
		"log level":       {`log_level = "loud"`, `FILE:1:13: log_level: "loud" is not one of trace, debug, info, warn, error and off`},
		"advertise":       {`advertise = "ftp://x"`, `FILE:1:13: advertise: is not host:port, http://…, https://… or unix:///path`},
		"peer":            {"peer {\n  token_file = \"/nope\"\n}", "FILE:2:16: token_file: open /nope: no such file or directory"},
		"queue name":      {`queue "A" {}`, `FILE:1:11: queue: "A" is not 1 to 63 small letters, digits, dashes and underscores beginning with a letter or digit`},
		"queue twice":     {"queue \"a\" {}\nqueue \"a\" {}", `FILE:2:11: queue: "a" is there already, from FILE:1:11`},
		"shards":          {"queue \"a\" {\n  shards = 65\n}", "FILE:2:12: shards: 65 is not between 1 and 64"},
		"stage twice":     {"queue \"a\" {\n  stage \"x\" {}\n  stage \"x\" {}\n}", `FILE:3:13: name: there are two stages "x"`},
		"lease":           {"queue \"a\" {\n  stage \"x\" {\n    lease = \"1ms\"\n  }\n}", "FILE:3:13: lease: 1ms is not between 1s and 1h0m0s"},
		"next":            {"queue \"a\" {\n  stage \"x\" {\n    next = \"y\"\n  }\n}", `FILE:3:12: next: "y" is not a later stage`},
		"rate":            {"queue \"a\" {\n  stage \"x\" {\n    rate = \"fast\"\n  }\n}", `FILE:3:12: rate: "fast" is not a number of items in a second`},
		"rate of nothing": {"queue \"a\" {\n  stage \"x\" {\n    rate = \"NaN\"\n  }\n}", `FILE:3:12: rate: "NaN" is not a number of items in a second`},
		"scale":           {"queue \"a\" {\n  stage \"x\" {\n    scale {\n      job = \"\"\n    }\n  }\n}", `FILE:4:13: scale.job: "" is not the ID of a job`},
		"unlabelled":      {"queue {}", "FILE:1:7: Missing name for queue; All queue blocks must have 1 labels (name)."},
		"all interfaces": {"listen {\n  address = \":4050\"\n  token_file = \"/nope\"\n}", "FILE:3:16: token_file: open /nope: no such file or directory\n" +
			`FILE:2:13: advertise: is missing: give the address at which other brokers and workers reach this one, such as 10.0.0.7:4050`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, c.content)
			must.EqError(t, err, c.want)
		})
	}
}

func TestAdvertised(t *testing.T) {
	listening := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}
	a := &Agent{}
	must.Eq(t, "127.0.0.1:4711", a.Advertised(listening))
	a.Listen.CertFile.V = "x"
	must.Eq(t, "https://127.0.0.1:4711", a.Advertised(listening))
	a.Listen.Address.V = "unix:///run/q"
	must.Eq(t, "unix:///run/q", a.Advertised(listening))
	a.Broker.Address = "10.0.0.1:1"
	must.Eq(t, "10.0.0.1:1", a.Advertised(listening))
}

// The token of other brokers is that of this one, unless another is given.
func TestPeerToken(t *testing.T) {
	bare(t)
	dir := t.TempDir()
	own, other := filepath.Join(dir, "own"), filepath.Join(dir, "other")
	must.NoError(t, os.WriteFile(own, []byte("o1\n"), 0o600))
	must.NoError(t, os.WriteFile(other, []byte("o2\n"), 0o600))
	a, err := load(t, "", "-listen-token-file", own)
	must.NoError(t, err)
	must.Eq(t, "o1", a.PeerToken)
	a, err = load(t, "", "-listen-token-file", own, "-peer-token-file", other)
	must.NoError(t, err)
	must.Eq(t, "o2", a.PeerToken)
}

func TestQueues(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.hcl")
	must.NoError(t, os.WriteFile(file, []byte(full), 0o600))
	all, err := Queues([]string{file})
	must.NoError(t, err)
	must.SliceLen(t, 2, all)
	must.NoError(t, os.WriteFile(file, []byte(`queue "a" { shards = 99 }`), 0o600))
	_, err = Queues([]string{file})
	must.ErrorContains(t, err, "shards: 99 is not between 1 and 64")
}
