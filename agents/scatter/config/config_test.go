package config

import (
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/merge"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// load reads a configuration, written to a file, with flags. FILE in the error stands
// for the file's path.
func load(t *testing.T, content string, args ...string) (*Agent, error) {
	t.Helper()
	return loadFile(t, "a.hcl", content, args...)
}

func loadFile(t *testing.T, name, content string, args ...string) (*Agent, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	must.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	a, err := parse(t, append([]string{"-config", file}, args...)...)
	if err != nil {
		err = fmt.Errorf("%s", strings.ReplaceAll(err.Error(), file, "FILE"))
	}
	return a, err
}

// parse reads a configuration from flags.
func parse(t *testing.T, args ...string) (*Agent, error) {
	t.Helper()
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	get := AgentSource(fs)
	must.NoError(t, fs.Parse(args))
	a, err := get()
	if err != nil {
		must.Eq(t, agent.ExitConfig, agent.ExitCode(err))
	}
	return a, err
}

// bare keeps the machine's environment out of a test.
func bare(t *testing.T) {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		for _, prefix := range []string{"NOMAD_", "CONSUL_", "SCATTER_"} {
			if strings.HasPrefix(name, prefix) {
				t.Setenv(name, "")
			}
		}
	}
}

const least = `
route "search" {
  pattern = "GET /search"
  service = "search-leaf"
}
`

func TestDefaults(t *testing.T) {
	bare(t)
	a, err := load(t, least)
	must.NoError(t, err)
	host, err := os.Hostname()
	must.NoError(t, err)
	must.StrHasPrefix(t, host+"-", a.ID)
	must.Eq(t, "127.0.0.1:4060", a.Listen.Address.V)
	must.Eq(t, 10*time.Second, a.DrainTimeout)
	must.Eq(t, hclog.Info, a.Log.Level)
	must.Eq(t, []server.Route{{
		Name: "search", Pattern: "GET /search", Service: "search-leaf", ShardMeta: "shard", Merger: merge.JSONArray{},
		Gather: gather.Config{Timeout: time.Second}, MaxAnswer: 32 << 20, MaxDepth: 8, CacheBytes: 16 << 20,
	}}, a.Routes)
}

const full = `
id            = "root-1"
log_level     = "debug"
log_json      = true
drain_timeout = "20s"

consul {
  address = "http://consul:8500"
}

listen {
  address = "unix:///run/scatter.sock"
}

route "search" {
  pattern       = "GET /search/{index}"
  service       = "search-leaf"
  tags          = ["v2", "x"]
  shard_meta    = "part"
  shards        = ["8..10", "archive"]
  merge         = "ndjson"
  idempotent    = true
  stream        = true
  timeout       = "2s"
  max_timeout   = "20s"
  reserve       = 0.1
  min_coverage  = 0.9
  wait          = "0.3"
  max_partial   = 100000
  memory        = 300000
  max_answer    = 1000
  max_in_flight = 7
  max_depth     = 3
  hedge {
    quantile = 0.99
    budget   = 0.02
  }
  retry {
    budget = 0.1
  }
}

route "top" {
  pattern = "/top"
  service = "top-leaf"
  merge   = "top-k"
  reserve = 0
  wait    = 0.0

  coalesce    = true
  cache       = "2s"
  cache_bytes = 1000000
  top_k {
    field = "score"
  }
  hedge {
    enabled = false
  }
  retry {
    enabled = false
  }
}
`

func TestFull(t *testing.T) {
	bare(t)
	a, err := load(t, full)
	must.NoError(t, err)
	must.Eq(t, "root-1", a.ID)
	must.Eq(t, "http://consul:8500", a.Consul.Address)
	must.Eq(t, "unix:///run/scatter.sock", a.Listen.Address.V)
	must.Eq(t, agent.LogConfig{Level: hclog.Debug, JSON: true}, a.Log)
	must.Eq(t, 20*time.Second, a.DrainTimeout)
	must.SliceLen(t, 2, a.Routes)
	must.Eq(t, server.Route{
		Name: "search", Pattern: "GET /search/{index}", Service: "search-leaf", Tags: []string{"v2", "x"}, ShardMeta: "part", Merger: merge.NDJSON{},
		Gather: gather.Config{
			Shards:  []string{"8", "9", "10", "archive"},
			Timeout: 2 * time.Second, MaxTimeout: 20 * time.Second, Reserve: 0.1, MinCoverage: 0.9, Wait: 0.3,
			HedgeQuantile: 0.99, HedgeBudget: 0.02, RetryBudget: 0.1, MaxPartial: 100000, Memory: 300000, MaxInFlight: 7,
		},
		Idempotent: true, Stream: true, MaxAnswer: 1000, MaxDepth: 3, CacheBytes: 16 << 20,
	}, a.Routes[0])
	// 0 is not the default of package gather.
	must.Eq(t, gather.Config{
		Timeout: time.Second, Reserve: math.SmallestNonzeroFloat64, Wait: math.SmallestNonzeroFloat64, HedgeQuantile: -1, RetryBudget: -1,
	}, a.Routes[1].Gather)
	must.True(t, a.Routes[1].Coalesce)
	must.Eq(t, 2*time.Second, a.Routes[1].Cache)
	must.Eq(t, 1000000, a.Routes[1].CacheBytes)
}

func TestMergers(t *testing.T) {
	bare(t)
	for name, c := range map[string]struct {
		content string
		want    merge.Merger
	}{
		"concat":     {`merge = "concat"`, merge.Concat{}},
		"json-array": {`merge = "json-array"`, merge.JSONArray{}},
		"ndjson":     {`merge = "ndjson"`, merge.NDJSON{}},
		"json-merge": {`merge = "json-merge"`, &merge.JSONMerge{}},
		"sum":        {"merge = \"sum\"\nmax_answer = 100", &merge.Sum{}},
		"top-k":      {"merge = \"top-k\"\ntop_k {\nk = 3\nk_param = \"n\"\nmax_k = 5\nfield = \"a.b\"\nascending = true\nitems = \"hits\"\nunique = \"id\"\n}", &merge.TopK{}},
		"container":  {"merge = \"container\"\nstream = true\ncontainer {\nurl = \"http://[::1]:9000/merge\"\nfold_bytes = 10\nfold_parts = 2\n}", &merge.Container{}},
		"localhost":  {"merge = \"container\"\ncontainer {\nurl = \"http://localhost:9000\"\n}", &merge.Container{}},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := load(t, "route \"r\" {\npattern = \"/r\"\nservice = \"s\"\n"+c.content+"\n}")
			must.NoError(t, err)
			must.Eq(t, fmt.Sprintf("%T", c.want), fmt.Sprintf("%T", a.Routes[0].Merger))
		})
	}
}

func TestToken(t *testing.T) {
	bare(t)
	file := filepath.Join(t.TempDir(), "token")
	must.NoError(t, os.WriteFile(file, []byte("secret\n"), 0o600))
	route := func(path string) string {
		return fmt.Sprintf("route \"r\" {\npattern = \"/r\"\nservice = \"s\"\ntoken_file = %q\n}", path)
	}
	a, err := load(t, route(file))
	must.NoError(t, err)
	must.Eq(t, "secret", a.Routes[0].Token)
	_, err = load(t, route("/nope"))
	must.ErrorContains(t, err, "4:14: token_file: open /nope: no such file or directory")
}

func TestFlagsAndEnvironment(t *testing.T) {
	bare(t)
	t.Setenv("SCATTER_ID", "from-env")
	t.Setenv("SCATTER_LOG_LEVEL", "warn")
	t.Setenv("SCATTER_LOG_JSON", "false")
	t.Setenv("SCATTER_LISTEN", "127.0.0.1:1")
	a, err := load(t, full, "-listen=127.0.0.1:0", "-drain-timeout=3s")
	must.NoError(t, err)
	must.Eq(t, "from-env", a.ID)
	must.Eq(t, agent.LogConfig{Level: hclog.Warn}, a.Log)
	must.Eq(t, "127.0.0.1:0", a.Listen.Address.V)
	must.Eq(t, 3*time.Second, a.DrainTimeout)
}

// One route needs no file.
func TestFlagRoute(t *testing.T) {
	bare(t)
	a, err := parse(t, "-route=GET /find", "-service=leaf", "-merge=concat", "-shard-meta=", "-timeout=2s", "-min-coverage=0.5")
	must.NoError(t, err)
	want := server.Route{
		Name: "leaf", Pattern: "GET /find", Service: "leaf", Merger: merge.Concat{},
		Gather: gather.Config{Timeout: 2 * time.Second, MinCoverage: 0.5}, MaxAnswer: 32 << 20, MaxDepth: 8, CacheBytes: 16 << 20,
	}
	must.Eq(t, []server.Route{want}, a.Routes)
	a, err = load(t, least, "-route=GET /find", "-service=leaf")
	must.NoError(t, err)
	must.SliceLen(t, 2, a.Routes)
	must.Eq(t, "leaf", a.Routes[1].Name)
	must.Eq(t, "shard", a.Routes[1].ShardMeta)
}

func TestFlagProblems(t *testing.T) {
	bare(t)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no route": {nil, `route: there is none; give for example -route 'GET /search' -service search-leaf, or a file with
  route "search" {
    pattern = "GET /search"
    service = "search-leaf"
  }`},
		"no service":   {[]string{"-route=/a"}, "-route: service: is missing; it is the name that leaves have in Consul"},
		"no pattern":   {[]string{"-service=a"}, `-service: pattern: is missing; write for example "GET /search"`},
		"neither":      {[]string{"-merge=sum"}, "-merge: pattern: is missing; write for example \"GET /search\"\n-merge: service: is missing; it is the name that leaves have in Consul"},
		"name":         {[]string{"-route=/a", "-service=a b"}, `-route: "a b" is not 1 to 128 letters, digits, dots, underscores and dashes beginning with a letter or digit`},
		"pattern":      {[]string{"-route=GET", "-service=a"}, `-route: pattern: "GET" is none of http.ServeMux (at offset 0: host/path missing /); write it like "GET /search"`},
		"merge":        {[]string{"-route=/a", "-service=a", "-merge=avg"}, `-merge: "avg" is not one of concat, json-array, ndjson, json-merge, sum, top-k, container`},
		"top-k":        {[]string{"-route=/a", "-service=a", "-merge=top-k"}, `-merge: "top-k" needs a block top_k in the route of a file, with for example field = "score"`},
		"container":    {[]string{"-route=/a", "-service=a", "-merge=container"}, `-merge: "container" needs a block container in the route of a file, with for example url = "http://127.0.0.1:9000/merge"`},
		"timeout":      {[]string{"-route=/a", "-service=a", "-timeout=2h"}, "-timeout: 2h0m0s is not between 1ms and 1h0m0s"},
		"min coverage": {[]string{"-route=/a", "-service=a", "-min-coverage=0"}, `-min-coverage: min_coverage: "0" is not a number above 0 and up to 1`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(t, c.args...)
			must.EqError(t, err, c.want)
		})
	}
	t.Run("there already", func(t *testing.T) {
		_, err := load(t, least, "-route=/a", "-service=search")
		must.EqError(t, err, `-route: "search" is there already, from FILE:2:16`)
	})
	t.Run("the same pattern", func(t *testing.T) {
		_, err := load(t, least, "-route=GET /search", "-service=leaf")
		must.EqError(t, err, `-route: pattern: "GET /search" matches requests that "GET /search" of route "search", from FILE:2:16, matches too, and neither is the more specific one; change one of them`)
	})
}

func TestProblems(t *testing.T) {
	bare(t)
	for name, c := range map[string]struct{ content, want string }{
		"unknown key":   {`di = "x"`, `FILE:1:1: Unsupported argument; An argument named "di" is not expected here. Did you mean "id"?`},
		"id":            {`id = "a,b"` + least, `FILE:1:6: id: "a,b" is not 1 to 128 letters, digits, dots, underscores and dashes beginning with a letter or digit`},
		"log level":     {`log_level = "loud"` + least, `FILE:1:13: log_level: "loud" is not one of trace, debug, info, warn, error and off`},
		"drain timeout": {`drain_timeout = "1h"` + least, "FILE:1:17: drain_timeout: 1h0m0s is not between 1s and 10m0s"},
		"listen":        {"listen {\n  address = \":4060\"\n}" + least, `FILE:2:13: address: ":4060" can be reached from other machines; give cert_file and key_file, or token_file, or an address on 127.0.0.1 or unix:///`},
		"consul":        {"consul {\n  address = \"ftp://x\"\n}" + least, `FILE:2:13: address: ftp:// is not http, https or unix; give host:port or such a URL`},
		"unlabelled":    {"route {}", "FILE:1:7: Missing name for route; All route blocks must have 1 labels (name)."},
		"empty":         {"route \"a\" {}", "FILE:1:11: pattern: is missing; write for example \"GET /search\"\nFILE:1:11: service: is missing; it is the name that leaves have in Consul"},
		"name":          {"route \"a b\" {\n  pattern = \"/a\"\n  service = \"s\"\n}", `FILE:1:13: route: "a b" is not 1 to 128 letters, digits, dots, underscores and dashes beginning with a letter or digit`},
		"twice":         {least + `route "search" {}`, `FILE:6:16: route: "search" is there already, from FILE:2:16`},
		"conflict": {least + "route \"b\" {\n  pattern = \"/{$}\"\n  service = \"s\"\n}\nroute \"c\" {\n  pattern = \"GET /x/{a}\"\n  service = \"s\"\n}\nroute \"d\" {\n  pattern = \"GET /x/{b}\"\n  service = \"s\"\n}",
			`FILE:7:13: pattern: "/{$}" is for paths of the agent's own, such as /v1/routes, too; begin the path with a name, like "GET /search/{index}"` + "\n" +
				`FILE:15:13: pattern: "GET /x/{b}" matches requests that "GET /x/{a}" of route "c", from FILE:10:11, matches too, and neither is the more specific one; change one of them`},
		"coalesced POST": {"route \"a\" {\n  pattern  = \"POST /a\"\n  service  = \"s\"\n  coalesce = true\n}", "FILE:4:14: coalesce: POST requests have effects of their own; leave coalesce out, or write idempotent = true if they have none"},
		"broken HCL":     {`route "a" {`, "FILE:1:11: Unclosed configuration block; There is no closing brace for this block before the end of the file. This may be caused by incorrect brace nesting elsewhere in this file."},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, c.content)
			must.EqError(t, err, c.want)
		})
	}
}

func TestRouteProblems(t *testing.T) {
	bare(t)
	topK := func(content string) string { return "merge = \"top-k\"\n  top_k {\n" + content + "\n  }" }
	toContainer := func(content string) string { return "merge = \"container\"\n  container {\n" + content + "\n  }" }
	for name, c := range map[string]struct{ content, want string }{
		"service":          {`service = ""`, "4:13: service: is missing; it is the name that leaves have in Consul"},
		"tags":             {`tags = ["a", ""]`, `4:10: tags: "" is no tag`},
		"shards without":   {"shard_meta = \"\"\n  shards = [\"1\"]", `5:12: shards: shards have no names if shard_meta = ""; leave one of the two out`},
		"shard twice":      {`shards = ["0..3", "2"]`, `4:12: shards: "2" is there twice`},
		"shard unnamed":    {`shards = [""]`, `4:12: shards: "" is no name of a shard`},
		"shards backwards": {`shards = ["3..0"]`, `4:12: shards: "3..0" is no range of whole numbers such as "0..15"`},
		"shards of what":   {`shards = ["a..b"]`, `4:12: shards: "a..b" is no range of whole numbers such as "0..15"`},
		"shards in range":  {`shards = ["0..1000000"]`, `4:12: shards: "0..1000000" are more than 10000`},
		"shards in all":    {`shards = ["0..9999", "x"]`, `4:12: shards: more than 10000`},
		"merge":            {`merge = "x"`, `4:11: merge: "x" is not one of concat, json-array, ndjson, json-merge, sum, top-k, container`},
		"stream":           {"merge = \"sum\"\n  stream = true", `5:12: stream: merge = "sum" has no answer before the last leaf's; leave stream out`},
		"timeout":          {`timeout = "0s"`, "4:13: timeout: 0s is not between 1ms and 1h0m0s"},
		"timeout of what":  {`timeout = 1`, `4:13: "1" is not a duration; write for example "1.5s" or "200ms"`},
		"max timeout":      {`max_timeout = "500ms"`, "4:17: max_timeout: 500ms is not between 1s and 1h0m0s"},
		"reserve":          {`reserve = 0.6`, `4:13: reserve: "0.6" is not a number from 0 to 0.5`},
		"reserve as text":  {`reserve = "much"`, `4:13: reserve: "much" is not a number from 0 to 0.5`},
		"min coverage":     {`min_coverage = 0`, `4:18: min_coverage: "0" is not a number above 0 and up to 1`},
		"NaN":              {`min_coverage = "NaN"`, `4:18: min_coverage: "NaN" is not a number above 0 and up to 1`},
		"wait":             {`wait = -0.1`, `4:10: wait: "-0.1" is not a number from 0 to 1`},
		"max partial":      {`max_partial = 0`, "4:17: max_partial: 0 is not between 1 and 1099511627776"},
		"memory":           {`memory = 1000`, "4:12: memory: 1000 bytes are less than two of the largest partial answers, 8388608 each"},
		"negative memory":  {`memory = -1`, "4:12: memory: -1 is not between 1 and 1099511627776"},
		"max answer":       {"max_answer = -1\n  merge = \"sum\"", "4:16: max_answer: -1 is not between 1 and 1099511627776"},
		"max in flight":    {`max_in_flight = 0`, "4:19: max_in_flight: 0 is not between 1 and 1048576"},
		"max depth":        {`max_depth = 65`, "4:15: max_depth: 65 is not between 1 and 64"},
		"cache":            {`cache = "-1s"`, "4:11: cache: -1s is not between 0s and 24h0m0s"},
		"cache bytes":      {`cache_bytes = 0`, "4:17: cache_bytes: 0 is not between 1 and 1099511627776"},
		"cached stream":    {"cache = \"1s\"\n  stream = true", "4:11: cache: an answer that streams is to one request only; leave cache or stream out"},
		"coalesced stream": {"coalesce = true\n  stream = true", "4:14: coalesce: an answer that streams is to one request only; leave coalesce or stream out"},
		"quantile":         {"hedge {\n    quantile = 1\n  }", `5:16: quantile: "1" is not a number above 0 and below 1`},
		"hedge budget":     {"hedge {\n    budget = 0\n  }", `5:14: budget: "0" is not a number above 0 and up to 1; to switch hedging off, write enabled = false`},
		"retry budget":     {"retry {\n    budget = 1.5\n  }", `5:14: budget: "1.5" is not a number above 0 and up to 1; to switch retries off, write enabled = false`},
		"needs top_k":      {`merge = "top-k"`, `4:11: merge: "top-k" needs a block top_k in the route of a file, with for example field = "score"`},
		"needless top_k":   {"top_k {\n  }", `4:9: top_k: is for merge = "top-k" only, and it is "json-array"`},
		"field":            {topK(""), `5:9: field: it is missing; say what elements are ordered by, such as "score"`},
		"path":             {topK("field = \"a..b\""), `6:9: field: "a..b" has an empty name; write it like "meta.score"`},
		"items":            {topK("field = \"a\"\nitems = \".\""), `7:9: items: "." has an empty name; write it like "meta.score"`},
		"unique":           {topK("field = \"a\"\nunique = \".\""), `7:10: unique: "." has an empty name; write it like "meta.score"`},
		"k":                {topK("k = 0\nfield = \"a\""), "6:5: k: 0 is less than 1; say how many elements the answer should have"},
		"max k":            {topK("max_k = 5\nfield = \"a\""), "6:9: max_k: 5 is less than K, which is 10; raise it or leave it out"},
		"max k of nothing": {topK("max_k = 0\nfield = \"a\""), "6:9: max_k: 0 is less than 1"},
		"needs container":  {`merge = "container"`, `4:11: merge: "container" needs a block container in the route of a file, with for example url = "http://127.0.0.1:9000/merge"`},
		"no container":     {"container {\n  }", `4:13: container: is for merge = "container" only, and it is "json-array"`},
		"url":              {toContainer(""), "5:13: url: it is missing; say where the merge container is, like http://127.0.0.1:9000"},
		"url of what":      {toContainer("url = \"https://127.0.0.1\""), `6:7: url: "https://127.0.0.1" is no HTTP address; write it like http://127.0.0.1:9000`},
		"url elsewhere":    {toContainer("url = \"http://10.0.0.1:9000\""), `6:7: url: "http://10.0.0.1:9000" is not on loopback; the merge container runs beside this agent: give 127.0.0.1, [::1] or localhost`},
		"url by name":      {toContainer("url = \"http://localhost.example.com\""), `6:7: url: "http://localhost.example.com" is not on loopback; the merge container runs beside this agent: give 127.0.0.1, [::1] or localhost`},
		"fold bytes":       {toContainer("url = \"http://127.0.0.1\"\nfold_bytes = -1"), "7:14: fold_bytes: -1 is not between 1 and 1099511627776"},
		"fold parts":       {toContainer("url = \"http://127.0.0.1\"\nfold_parts = 0"), "7:14: fold_parts: 0 is not between 1 and 1048576"},
	} {
		t.Run(name, func(t *testing.T) {
			head := "route \"r\" {\n  pattern = \"/r\"\n  service = \"s\"\n  "
			if strings.HasPrefix(c.content, "service") {
				head = strings.Replace(head, "service = \"s\"", "", 1)
			}
			_, err := load(t, head+c.content+"\n}")
			must.EqError(t, err, "FILE:"+c.want)
		})
	}
}

func TestPatterns(t *testing.T) {
	bare(t)
	const (
		own  = "is for paths of the agent's own, such as /v1/routes, too; begin the path with a name, like \"GET /search/{index}\""
		root = "is for /, which is the agent's own; write it like \"GET /search\""
	)
	under := func(name string) string {
		return "is for paths under /" + name + ", which are the agent's own; begin the path with another name"
	}
	for text, want := range map[string]string{
		"GET /search":             "",
		"/search/":                "",
		"POST example.com/a/{b}":  "",
		"/metricsandmore":         "",
		"/v1x":                    "",
		"search":                  "is none of http.ServeMux (at offset 0: host/path missing /); write it like \"GET /search\"",
		"GET /a/{b":               "is none of http.ServeMux (at offset 7: bad wildcard segment (must end with '}')); write it like \"GET /search\"",
		"GET /":                   root,
		"example.com/":            root,
		"GET /{$}":                own,
		"/{rest...}":              own,
		"/{index}/search":         own,
		"/metrics":                under("metrics"),
		"POST\t/v1/search":        under("v1"),
		"example.com/v1/":         under("v1"),
		"/%761/x":                 under("v1"),
		"GET /lifecycle/prestart": under("lifecycle"),
		"/debug/{x}":              under("debug"),
	} {
		t.Run(text, func(t *testing.T) {
			var p agent.Problems
			ok := checkPattern(&p, agent.Value[string]{V: text, From: "x"}, nil)
			must.Eq(t, want == "", ok)
			if want == "" {
				must.NoError(t, p.Err())
				return
			}
			must.EqError(t, p.Err(), fmt.Sprintf("x: pattern: %q %s", text, want))
		})
	}
}

func TestJSON(t *testing.T) {
	bare(t)
	a, err := loadFile(t, "a.json", `{"id": "r", "route": {"search": {
		"pattern": "GET /search", "service": "s", "min_coverage": 0.95, "max_partial": 1000, "hedge": {"enabled": false}}}}`)
	must.NoError(t, err)
	must.Eq(t, "r", a.ID)
	must.Eq(t, gather.Config{Timeout: time.Second, MinCoverage: 0.95, MaxPartial: 1000, HedgeQuantile: -1}, a.Routes[0].Gather)
	_, err = loadFile(t, "a.json", `{"route": {"search": {"pattern": "GET /search", "service": "s", "wait": 2}}}`)
	must.EqError(t, err, `FILE:1:73: wait: "2" is not a number from 0 to 1`)
}
