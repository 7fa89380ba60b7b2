package config

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/elector/catalog"
	"github.com/nomad-patterns/nomad-patterns/agents/elector/hook"
	"github.com/nomad-patterns/nomad-patterns/agents/elector/server"
	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/election"
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
	for _, name := range []string{"NOMAD_ALLOC_ID", "CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "ELECTOR_ID", "ELECTOR_TTL"} {
		t.Setenv(name, "")
	}
}

func TestDefaults(t *testing.T) {
	bare(t)
	a, err := load(t, "")
	must.NoError(t, err)
	host, err := os.Hostname()
	must.NoError(t, err)
	must.StrHasPrefix(t, host+"-", a.Election.ID)
	must.Eq(t, "election", a.Election.Prefix)
	must.Eq(t, 1500*time.Millisecond, a.Election.TTL)
	must.Eq(t, 10*time.Second, a.Election.SessionTTL)
	must.Eq(t, "elector", a.Election.Service)
	must.Eq(t, "localhost:8500", a.Election.Consul.Address)
	must.Eq(t, "127.0.0.1:4040", a.Listen.Address.V)
	must.Eq(t, "election-data", a.DataPrefix)
	must.Eq(t, 10*time.Second, a.DrainTimeout)
	must.Eq(t, hclog.Info, a.Log.Level)
	must.SliceEmpty(t, a.Elections)
}

const full = `
id          = "web-1"
address     = "10.0.0.7:8080"
meta        = { zone = "a" }
mode        = "strict"
ttl         = "2s"
session_ttl = "11s"
prefix      = "a/b"
data_prefix = "a/data"
log_level   = "debug"
log_json    = true

drain_timeout = "20s"

service {
  name = "e"
  port = 4041
  tags = ["x"]
}

consul {
  address = "http://consul:8500"
}

listen {
  address = "unix:///run/elector.sock"
}

election "publisher" {
  mode     = "fenced"
  priority = -5
  service {
    name       = "publisher"
    address    = "10.0.0.7"
    port       = 8080
    tags       = ["a"]
    leader_tag = "main"
  }
  on_gain {
    command = ["/bin/x", "y"]
    timeout = "3s"
  }
  on_loss {
    command = ["/bin/z"]
  }
}

election "orders-[08-11]" {}
`

func TestFull(t *testing.T) {
	bare(t)
	a, err := load(t, full)
	must.NoError(t, err)
	e := a.Election
	must.Eq(t, "http://consul:8500", e.Consul.Address)
	e.Consul = nil
	must.Eq(t, election.Config{
		ID: "web-1", Address: "10.0.0.7:8080", Meta: map[string]string{"zone": "a"}, Mode: election.Strict,
		TTL: 2 * time.Second, SessionTTL: 11 * time.Second, Prefix: "a/b",
		Service: "e", ServicePort: 4041, ServiceTags: []string{"x"},
	}, e)
	must.Eq(t, "a/data", a.DataPrefix)
	must.Eq(t, hclog.Debug, a.Log.Level)
	must.True(t, a.Log.JSON)
	must.Eq(t, 20*time.Second, a.DrainTimeout)
	must.Eq(t, "unix:///run/elector.sock", a.Listen.Address.V)
	must.Eq(t, []server.Election{
		{
			Name: "publisher", Mode: election.Fenced, Priority: -5,
			Service: &catalog.Service{Name: "publisher", Address: "10.0.0.7", Port: 8080, Tags: []string{"a"}, LeaderTag: "main"},
			OnGain:  &hook.Command{Args: []string{"/bin/x", "y"}, Timeout: 3 * time.Second},
			OnLoss:  &hook.Command{Args: []string{"/bin/z"}, Timeout: hook.DefaultTimeout},
		},
		{Name: "orders-08"}, {Name: "orders-09"}, {Name: "orders-10"}, {Name: "orders-11"},
	}, a.Elections)
}

func TestJSON(t *testing.T) {
	bare(t)
	file := filepath.Join(t.TempDir(), "a.json")
	must.NoError(t, os.WriteFile(file, []byte(`{
		"ttl": "2s",
		"election": {"a[1-2]": {"on_gain": {"command": ["x"]}}, "b": {}}
	}`), 0o600))
	a, err := load(t, "", "-config", file)
	must.NoError(t, err)
	must.Eq(t, 2*time.Second, a.Election.TTL)
	must.SliceLen(t, 3, a.Elections)
	must.Eq(t, []string{"x"}, a.Elections[1].OnGain.Args)
}

func TestFlagsAndEnvironment(t *testing.T) {
	bare(t)
	t.Setenv("ELECTOR_ID", "from-env")
	t.Setenv("ELECTOR_TTL", "3s")
	a, err := load(t, full, "-ttl=4s", "-election=more-[1-2]", "-listen=127.0.0.1:0", "-service-tag=t", "-advertise=x:1", "-meta=a=b", "-consul-address=c:1")
	must.NoError(t, err)
	must.Eq(t, "from-env", a.Election.ID)
	must.Eq(t, 4*time.Second, a.Election.TTL)
	must.Eq(t, "127.0.0.1:0", a.Listen.Address.V)
	must.Eq(t, []string{"t"}, a.Election.ServiceTags)
	must.Eq(t, "x:1", a.Election.Address)
	must.Eq(t, map[string]string{"a": "b"}, a.Election.Meta)
	must.Eq(t, "c:1", a.Election.Consul.Address)
	must.Eq(t, "more-2", a.Elections[len(a.Elections)-1].Name)
}

func TestProblems(t *testing.T) {
	bare(t)
	for name, c := range map[string]struct {
		content string
		want    string // all of it; FILE is the path
	}{
		"unknown key":        {"tll = 1", `FILE:1:1: Unsupported argument; An argument named "tll" is not expected here. Did you mean "ttl"?`},
		"id":                 {`id = "a b"`, `FILE:1:6: id: "a b" is not 1 to 128 letters, digits, dots, underscores and dashes beginning with a letter or digit`},
		"mode":               {`mode = "fast"`, `FILE:1:8: mode: "fast" is not one of "strict", "balanced", "fenced"`},
		"ttl":                {`ttl = "500ms"`, "FILE:1:7: ttl: 500ms is not between 1s and 1m0s"},
		"session ttl":        {`session_ttl = "5s"`, "FILE:1:15: session_ttl: 5s is not between 10s and 1m0s"},
		"prefix":             {`prefix = "/a"`, `FILE:1:10: prefix: "/a" is not a path of letters, digits, dots, underscores and dashes without a slash at its ends`},
		"data prefix":        {`data_prefix = ""`, `FILE:1:15: data_prefix: "" is not a path of letters, digits, dots, underscores and dashes without a slash at its ends`},
		"log level":          {`log_level = "loud"`, `FILE:1:13: log_level: "loud" is not one of trace, debug, info, warn, error and off`},
		"drain timeout":      {`drain_timeout = "1h"`, "FILE:1:17: drain_timeout: 1h0m0s is not between 1s and 10m0s"},
		"service":            {"service {\n  name = \"a_b\"\n}", `FILE:2:10: name: "a_b" is not 1 to 63 letters, digits and dashes, beginning and ending with a letter or digit`},
		"service port":       {"service {\n  port = 70000\n}", "FILE:2:10: port: 70000 is not between 0 and 65535"},
		"listen":             {"listen {\n  address = \":4040\"\n}", `FILE:2:13: address: ":4040" can be reached from other machines; give cert_file and key_file, or token_file, or an address on 127.0.0.1 or unix:///`},
		"consul":             {"consul {\n  token_file = \"/nope\"\n}", "FILE:2:16: token_file: open /nope: no such file or directory"},
		"election name":      {`election "a b" {}`, `FILE:1:16: election: "a b" is not 1 to 128 letters, digits, dots, underscores and dashes beginning with a letter or digit`},
		"election pattern":   {`election "a[1-x]" {}`, `FILE:1:19: election: "a[1-x]" is not a name with ranges such as [000-499]`},
		"election mode":      {"election \"a\" {\n  mode = \"x\"\n}", `FILE:2:10: mode: "x" is not one of "strict", "balanced", "fenced"`},
		"election priority":  {"election \"a\" {\n  priority = 101\n}", "FILE:2:14: priority: 101 is not between -100 and 100"},
		"election twice":     {"election \"a[1-3]\" {}\nelection \"a2\" {}", `FILE:2:15: election: "a2" is there already, from FILE:1:19`},
		"too many":           {"election \"a[1-3000]\" {}\nelection \"b[1-2001]\" {}", `FILE:2:22: election: there are more than 5000 elections in all; run several electors`},
		"unlabelled":         {"election {}", "FILE:1:10: Missing name for election; All election blocks must have 1 labels (name)."},
		"service of none":    {"election \"a\" {\n  service {}\n}", "FILE:1:14: service: name is missing"},
		"leader tag":         {"election \"a\" {\n  service {\n    name = \"x\"\n    leader_tag = \"\"\n  }\n}", `FILE:4:18: leader_tag: "" is not 1 to 63 letters, digits and dashes, beginning and ending with a letter or digit`},
		"candidate's tag":    {"election \"a\" {\n  service {\n    name = \"x\"\n    leader_tag = \"candidate\"\n  }\n}", `FILE:4:18: leader_tag: "candidate" is the tag of those who do not lead`},
		"leader tag of all":  {"election \"a\" {\n  service {\n    name = \"x\"\n    tags = [\"v1\", \"leader\"]\n  }\n}", `FILE:4:12: tags: "leader" is the leader_tag, which only the leader has`},
		"no command":         {"election \"a\" {\n  on_gain {}\n}", `FILE:1:14: on_gain: command is missing; write for example command = ["/bin/program", "argument"]`},
		"empty command":      {"election \"a\" {\n  on_loss {\n    command = []\n  }\n}", `FILE:3:15: on_loss: command is missing; write for example command = ["/bin/program", "argument"]`},
		"command's timeout":  {"election \"a\" {\n  on_loss {\n    command = [\"x\"]\n    timeout = \"1ms\"\n  }\n}", "FILE:4:15: timeout: 1ms is not between 100ms and 10m0s"},
		"command as a text":  {"election \"a\" {\n  on_loss {\n    command = \"x\"\n  }\n}", "FILE:3:15: list of string required, but have string"},
		"several, all named": {"id = \"-\"\nttl = \"0s\"", "FILE:1:6: id: \"-\" is not 1 to 128 letters, digits, dots, underscores and dashes beginning with a letter or digit\nFILE:2:7: ttl: 0s is not between 1s and 1m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, c.content)
			must.EqError(t, err, c.want)
		})
	}
}

func TestFlagProblems(t *testing.T) {
	bare(t)
	_, err := load(t, "", "-ttl=1ms", "-election=a b", "-mode=x")
	must.EqError(t, err, `-ttl: 1ms is not between 1s and 1m0s`+"\n"+
		`-mode: "x" is not one of "strict", "balanced", "fenced"`+"\n"+
		`-election: "a b" is not 1 to 128 letters, digits, dots, underscores and dashes beginning with a letter or digit`)
}

func TestExplain(t *testing.T) {
	bare(t)
	a, err := load(t, "\n"+`meta = { a = "b" }`)
	must.NoError(t, err)
	err = a.Explain(fmt.Errorf("start: %w", &election.FieldError{Field: "meta", Problem: "is too large"}))
	must.Eq(t, agent.ExitConfig, agent.ExitCode(err))
	must.StrHasSuffix(t, "a.hcl:2:8: meta: is too large", err.Error())
	must.ErrorIs(t, a.Explain(io.EOF), io.EOF)
	must.NoError(t, a.Explain(nil))
}

func TestMemberSource(t *testing.T) {
	bare(t)
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	get := MemberSource(fs)
	must.NoError(t, fs.Parse([]string{"-id=x", "-mode=strict", "-log-level=warn"}))
	m, err := get()
	must.NoError(t, err)
	must.Eq(t, "x", m.Election.ID)
	must.Eq(t, election.Strict, m.Election.Mode)
	must.Eq(t, hclog.Warn, m.Log.Level)
	must.Nil(t, fs.Lookup("config"))
}

func TestExpand(t *testing.T) {
	for pattern, want := range map[string][]string{
		"a":           {"a"},
		"a[8-11]":     {"a8", "a9", "a10", "a11"},
		"a[08-11]b":   {"a08b", "a09b", "a10b", "a11b"},
		"[1-2]-[0-1]": {"1-0", "1-1", "2-0", "2-1"},
		"a[7-7]":      {"a7"},
		"a[00-01]":    {"a00", "a01"},
	} {
		t.Run(pattern, func(t *testing.T) {
			got, err := Expand(pattern, 4)
			must.NoError(t, err)
			must.Eq(t, want, got)
		})
	}
	for _, pattern := range []string{
		"a[", "a]", "a[]", "a[1]", "a[1-]", "a[-1]", "a[2-1]", "a[1-2", "a]1-2[", "a[[1-2]]", "a[01-100]", "a[+1-2]",
		"a[1-5]", "[1-2][1-2][1-2]", "a[0-4294967296]", "a[0-2147483647]",
	} {
		t.Run(pattern, func(t *testing.T) {
			_, err := Expand(pattern, 4)
			must.Error(t, err)
		})
	}
	_, err := Expand("a", 0)
	must.Error(t, err)
}

func FuzzExpand(f *testing.F) {
	f.Add("a[000-499]-[1-2]b")
	f.Fuzz(func(t *testing.T, pattern string) {
		names, err := Expand(pattern, 100)
		if err != nil {
			return
		}
		must.Between(t, 1, len(names), 100)
		seen := map[string]bool{}
		for _, n := range names {
			must.False(t, seen[n])
			seen[n] = true
		}
	})
}
