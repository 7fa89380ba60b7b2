package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/server"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

func TestMain(m *testing.M) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "SCATTER_") || strings.HasPrefix(name, "CONSUL_") || strings.HasPrefix(name, "NOMAD_") {
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
func run(args ...string) (code int, out, err string) {
	var o, e bytes.Buffer
	code = Main(args, &o, &e)
	return code, o.String(), e.String()
}

var since = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// routes is what the fake agent has.
func routes() []server.RouteStatus {
	return []server.RouteStatus{
		{Name: "search", Pattern: "GET /search", Service: "leaf", Status: gather.Status{
			Shards: []gather.ShardStatus{
				{Name: "0", Leaves: []gather.LeafStatus{{ID: "a"}, {ID: "b", Ejected: true}}},
				{Name: "1", Leaves: []gather.LeafStatus{{ID: "c"}}},
			},
			HedgeAfterMS: 12.3456, Counters: gather.Counters{Requests: 100, Short: 2, Hedged: 5, HedgeWon: 3},
		}},
		{Name: "other", Pattern: "/other", Service: "other-leaf", Consul: "no\nroute", Since: &since},
	}
}

// fakeAgent serves at $SCATTER_ADDR. It notes what it is asked.
func fakeAgent(t *testing.T) (address string, seen *[]string) {
	t.Helper()
	seen = new([]string)
	mux := http.NewServeMux()
	answer := func(pattern, coverage, missing string, status int, body string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			if coverage != "" {
				w.Header().Set(gather.CoverageHeader, coverage)
			}
			if missing != "" {
				w.Header().Set(gather.MissingHeader, missing)
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		})
	}
	answer("/whole", "ok=4, total=4", "", 200, "[1,2]")
	answer("/partial", "ok=3, total=4", "2;reason=timeout", 200, "[1]")
	answer("/short", "ok=0, total=4", "2;reason=timeout", 504, `{"error":"0 of 4 leaves have answered","coverage":{"ok":0,"total":4}}`+"\n")
	answer("/bad", "", "", 400, `{"error":"\"x\" is not a number","field":"Scatter-Min-Coverage"}`)
	answer("/refused", "ok=0, total=4", "", 404, "no such index\x1b\n")
	answer("/silent", "", "", 502, "")
	answer("/plain", "", "", 200, "hello\n")
	answer("/odd", "most of it", "", 200, "x")
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", gather.CoverageHeader+", "+gather.MissingHeader)
		_, _ = io.WriteString(w, "a\n")
		w.(http.Flusher).Flush()
		w.Header().Set(gather.CoverageHeader, "ok=3, total=4")
		w.Header().Set(gather.MissingHeader, "2;reason=reset")
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "a\n")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/v1/routes", func(w http.ResponseWriter, _ *http.Request) {
		httpapi.WriteJSON(w, 200, map[string]any{"routes": routes()})
	})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		text := r.Method + " " + r.URL.RequestURI()
		for _, name := range []string{"Authorization", gather.TimeoutHeader, server.CoverageWantedHeader, "Content-Type"} {
			if v := r.Header.Get(name); v != "" {
				text += " " + v
			}
		}
		if len(body) > 0 {
			text += " " + string(body)
		}
		*seen = append(*seen, text)
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	t.Setenv("SCATTER_ADDR", s.URL)
	return s.URL, seen
}

func TestCommands(t *testing.T) {
	address, seen := fakeAgent(t)
	token := filepath.Join(t.TempDir(), "token")
	must.NoError(t, os.WriteFile(token, []byte("secret\n"), 0o600))
	table := `ROUTE   PATTERN      SHARDS  LEAVES  EJECTED  HEDGE AFTER  HEDGES  REQUESTS  SHORT
search  GET /search  2       3       1        12.3ms       3/5     100       2
other   /other       0       0       0        -            0/0     0         0

other: the leaves may be others by now, for Consul cannot be asked since ` + since.Local().Format(time.DateTime) + `: no?route
`
	raw, err := json.Marshal(map[string]any{"routes": routes()})
	must.NoError(t, err)
	for name, c := range map[string]struct {
		args     []string
		code     int
		out, err string
		request  string // "" if there is none
	}{
		"status":         {[]string{"status"}, 0, table, "", "GET /v1/routes"},
		"as JSON":        {[]string{"status", "-json"}, 0, string(raw) + "\n", "", "GET /v1/routes"},
		"with a token":   {[]string{"status", "-token-file", token, "-json"}, 0, string(raw) + "\n", "", "GET /v1/routes Bearer secret"},
		"of what":        {[]string{"status", "x"}, 1, "", "scatter: there are no arguments, but 1 were given\n", ""},
		"bad flag":       {[]string{"status", "-jsn"}, 1, "", "scatter: flag provided but not defined: -jsn; see scatter status -help\n", ""},
		"bad address":    {[]string{"status", "-address=ftp://x"}, 1, "", "-address: is not host:port, http://…, https://… or unix:///path\n", ""},
		"query":          {[]string{"query", "/whole?q=x"}, 0, "[1,2]", "Scatter-Coverage: ok=4, total=4\n", "GET /whole?q=x"},
		"all flags":      {[]string{"query", "-token-file", token, "-timeout=2s", "-min-coverage=0.5", "/whole"}, 0, "[1,2]", "Scatter-Coverage: ok=4, total=4\n", "GET /whole Bearer secret 2s 0.5"},
		"data":           {[]string{"query", `-data={"a":1}`, "/whole"}, 0, "[1,2]", "Scatter-Coverage: ok=4, total=4\n", `POST /whole application/json {"a":1}`},
		"other data":     {[]string{"query", "-method=PUT", "-data=a=1", "/whole"}, 0, "[1,2]", "Scatter-Coverage: ok=4, total=4\n", "PUT /whole application/octet-stream a=1"},
		"no data":        {[]string{"query", "-data=", "/whole"}, 0, "[1,2]", "Scatter-Coverage: ok=4, total=4\n", "POST /whole application/octet-stream"},
		"head":           {[]string{"query", "-method=HEAD", "/whole"}, 0, "", "Scatter-Coverage: ok=4, total=4\n", "HEAD /whole"},
		"partial":        {[]string{"query", "/partial"}, 3, "[1]", "Scatter-Coverage: ok=3, total=4\nScatter-Missing: 2;reason=timeout\n", "GET /partial"},
		"stream":         {[]string{"query", "/stream"}, 3, "a\n", "Scatter-Coverage: ok=3, total=4\nScatter-Missing: 2;reason=reset\n", "GET /stream"},
		"cut":            {[]string{"query", "/cut"}, 2, "a\n", "scatter: the answer was cut: the root has given up, or has ended\n", "GET /cut"},
		"short":          {[]string{"query", "/short"}, 2, "", "Scatter-Coverage: ok=0, total=4\nScatter-Missing: 2;reason=timeout\nscatter: 0 of 4 leaves have answered\n", "GET /short"},
		"bad request":    {[]string{"query", "/bad"}, 2, "", "scatter: Scatter-Min-Coverage: \"x\" is not a number\n", "GET /bad"},
		"refused":        {[]string{"query", "/refused"}, 2, "", "Scatter-Coverage: ok=0, total=4\nscatter: the agent at " + address + " answered 404 Not Found: \"no such index\\x1b\"\n", "GET /refused"},
		"silent":         {[]string{"query", "/silent"}, 2, "", "scatter: the agent at " + address + " answered 502 Bad Gateway\n", "GET /silent"},
		"no route":       {[]string{"query", "/plain"}, 2, "hello\n", "scatter: the answer does not tell its coverage; is the path that of a route?\n", "GET /plain"},
		"odd coverage":   {[]string{"query", "/odd"}, 2, "x", "Scatter-Coverage: most of it\nscatter: Scatter-Coverage: \"most of it\" is not what a root says\n", "GET /odd"},
		"query what":     {[]string{"query"}, 1, "", "scatter: give a path such as '/search?q=x', and nothing else\n", ""},
		"flags behind":   {[]string{"query", "/whole", "-timeout=1s"}, 1, "", "scatter: flags have to come before \"/whole\": -timeout=1s\n", ""},
		"no path":        {[]string{"query", "whole"}, 1, "", "scatter: \"whole\" is not a path such as '/search?q=x'\n", ""},
		"bad path":       {[]string{"query", "/%zz"}, 1, "", "scatter: parse \"" + address + "/%zz\": invalid URL escape \"%zz\"\n", ""},
		"bad method":     {[]string{"query", "-method=A B", "/whole"}, 1, "", "scatter: net/http: invalid method \"A B\"\n", ""},
		"bad timeout":    {[]string{"query", "-timeout=0", "/whole"}, 1, "", "scatter: -timeout: 0s is no time for an answer\n", ""},
		"bad coverage":   {[]string{"query", "-min-coverage=2", "/whole"}, 1, "", "scatter: -min-coverage: \"2\" is not a number above 0 and up to 1\n", ""},
		"query, address": {[]string{"query", "-address=ftp://x", "/whole"}, 1, "", "-address: is not host:port, http://…, https://… or unix:///path\n", ""},

		"version":          {[]string{"version"}, 0, "scatter " + agent.Version() + "\n", "", ""},
		"agent, arguments": {[]string{"agent", "x"}, 1, "", "scatter: there are no arguments, but 1 were given\n", ""},
		"agent, badly":     {[]string{"agent", "-id=-", "-route=/a", "-service=a", "-merge=avg"}, 1, "", "-id: \"-\" is not 1 to 128 letters, digits, dots, underscores and dashes beginning with a letter or digit\n-merge: \"avg\" is not one of concat, json-array, ndjson, json-merge, sum, top-k, container\n", ""},
		"agent, validated": {[]string{"agent", "-validate", "-id=r", "-route=GET /search", "-service=leaf"}, 0, "The configuration is valid: root r, 1 route.\n", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			*seen = nil
			code, out, err := run(c.args...)
			must.Eq(t, c.out, out)
			must.Eq(t, c.err, err)
			must.Eq(t, c.code, code)
			if c.request == "" {
				must.SliceEmpty(t, *seen)
			} else {
				must.Eq(t, []string{c.request}, *seen)
			}
		})
	}
}

func TestStatusAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status   int
		body     string
		code     int
		out, err string
	}{
		"none":    {200, `{"routes":[]}`, 0, "no routes\n", ""},
		"no JSON": {200, "<html>", 2, "", "scatter: the agent's answer is not what a root says: invalid character '<' looking for beginning of value\n"},
		"refused": {401, `{"error":"send the token"}`, 2, "", "scatter: send the token\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			defer s.Close()
			code, out, err := run("status", "-address", s.URL)
			must.Eq(t, c.out, out)
			must.Eq(t, c.err, err)
			must.Eq(t, c.code, code)
		})
	}
}

func TestNoAgent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "sock")
	for _, args := range [][]string{{"status"}, {"query", "-address=unix://" + socket, "/x"}} {
		t.Setenv("SCATTER_ADDR", "unix://"+socket)
		code, _, err := run(args...)
		must.Eq(t, 2, code)
		must.StrHasPrefix(t, "scatter: ask the agent (is it running at unix://"+socket+"?): ", err)
		must.StrContains(t, err, "no such file")
	}
}

func TestLatency(t *testing.T) {
	for ms, want := range map[float64]string{
		0: "-", -1: "-", 0.0123: "12µs", 0.98765: "988µs", 1.23456: "1.23ms", 12.3456: "12.3ms", 123.456: "123ms", 1234.56: "1.23s", 98765: "1m38.77s",
	} {
		must.Eq(t, want, latency(ms), must.Sprint(ms))
	}
}

// What comes from elsewhere cannot move the cursor.
func TestTable(t *testing.T) {
	var b bytes.Buffer
	table := newTable(&b)
	table.row("a\x1b[2J\n\tb\u009b", "")
	must.NoError(t, table.flush())
	must.Eq(t, "a?[2J??b?  -\n", b.String())
}

func TestHelp(t *testing.T) {
	code, out, _ := run("-help")
	must.Eq(t, 0, code)
	for _, name := range []string{"agent", "query", "status", "version"} {
		must.StrContains(t, out, "    "+name+" ")
		code, help, err := run(name, "-help")
		must.Eq(t, 0, code)
		must.StrHasPrefix(t, "Usage: scatter "+name, help+err)
		if name != "version" {
			must.StrContains(t, help+err, "Exit codes: 0")
		}
		must.StrNotContains(t, help+err, "=<value>", must.Sprint("a flag of "+name+" does not say what its value is"))
	}
	code, _, err := run("nonsense")
	must.Eq(t, 127, code)
	must.StrContains(t, fmt.Sprint(err), "Available commands are:")
}
