package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
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

	"github.com/nomad-patterns/nomad-patterns/agents/elector/config"
	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

func TestMain(m *testing.M) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "ELECTOR_") || strings.HasPrefix(name, "CONSUL_") || strings.HasPrefix(name, "NOMAD_") {
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

// sample is an election as an agent tells it.
func sample() election.Status {
	return election.Status{
		Election: "a", Mode: election.Balanced, Self: true, Joined: true,
		Leader: &election.Leader{ID: "web-1", Address: "10.0.0.7:80", Meta: map[string]string{"zone": "x", "rack": "7"}},
		Token:  26, Term: 3, Trusted: 1300 * time.Millisecond, Observed: 12 * time.Millisecond,
		Candidates: []election.CandidateInfo{
			{ID: "web-1", Address: "10.0.0.7:80", Meta: map[string]string{"zone": "x", "rack": "7"}, Rank: 0},
			{ID: "web-2", Rank: 1},
		},
	}
}

// other is an election that nobody leads and that cannot be taken part in.
func other() election.Status {
	return election.Status{Election: "orders-00", Mode: election.Strict, Observed: -1, Error: "consul cannot be reached"}
}

// fakeAgent answers as an agent would. It records method and URL of requests.
func fakeAgent(t *testing.T) (address string, seen *[]string) {
	t.Helper()
	seen = new([]string)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/elections", func(w http.ResponseWriter, r *http.Request) {
		list := []election.Status{}
		if r.URL.RawQuery == "" {
			list = []election.Status{sample(), other()}
		}
		httpapi.WriteJSON(w, 200, map[string]any{"elections": list})
	})
	mux.HandleFunc("GET /v1/elections/{name}", func(w http.ResponseWriter, r *http.Request) {
		switch r.PathValue("name") {
		case "a":
			httpapi.WriteJSON(w, 200, sample())
		case "orders-00":
			httpapi.WriteJSON(w, 200, other())
		case "broken":
			w.WriteHeader(http.StatusBadGateway)
		case "html":
			_, _ = io.WriteString(w, "<html>")
		default:
			httpapi.WriteError(w, httpapi.Errorf(404, "", "election %q: no such election", r.PathValue("name")))
		}
	})
	mux.HandleFunc("DELETE /v1/elections/{name}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("name") != "a" {
			httpapi.WriteJSON(w, 409, map[string]any{"error": "not the leader", "status": sample()})
			return
		}
		httpapi.WriteJSON(w, 200, other())
	})
	mux.HandleFunc("GET /v1/elections/{name}/watch", func(w http.ResponseWriter, r *http.Request) {
		s, err := httpapi.OpenStream(w)
		must.NoError(t, err)
		for _, st := range []election.Status{sample(), sample(), other()} {
			if s.Send("status", st) != nil {
				return // the client has been interrupted
			}
		}
		if r.PathValue("name") == "endless" {
			<-r.Context().Done()
		}
	})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*seen = append(*seen, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Authorization"))
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, seen
}

func TestAsk(t *testing.T) {
	address, seen := fakeAgent(t)
	t.Setenv("ELECTOR_ADDR", address)
	token := filepath.Join(t.TempDir(), "token")
	must.NoError(t, os.WriteFile(token, []byte("secret\n"), 0o600))
	const table = `ELECTION   MODE      LEADER              ADDRESS      TOKEN  TERM  TRUSTED  OBSERVED  CANDIDATES
a          balanced  web-1 (this agent)  10.0.0.7:80  26     3     1.3s     12ms      2
orders-00  strict    -                   -            -      -     -        never     0
`
	const details = `Election  a
Mode      balanced
Leader    web-1 (this agent)
Address   10.0.0.7:80
Meta      rack=7 zone=x
Token     26
Term      3
Trusted   1.3s
Observed  12ms

RANK  CANDIDATE  ADDRESS      META
0     web-1      10.0.0.7:80  rack=7 zone=x
1     web-2      -            -
`
	for name, c := range map[string]struct {
		args     []string
		code     int
		out, err string
		request  string // "" if there is none
	}{
		"status":       {[]string{"status"}, 0, table, "", "GET /v1/elections "},
		"of joined":    {[]string{"status", "-joined"}, 0, "no elections\n", "", "GET /v1/elections?joined=true "},
		"as JSON":      {[]string{"status", "-json", "-joined"}, 0, "{\"elections\":[]}\n", "", "GET /v1/elections?joined=true "},
		"of one":       {[]string{"status", "a"}, 0, details, "", "GET /v1/elections/a "},
		"without":      {[]string{"status", "orders-00"}, 0, "Election  orders-00\nMode      strict\nLeader    -\nAddress   -\nToken     -\nTerm      -\nTrusted   -\nObserved  never\nError     consul cannot be reached\n", "", "GET /v1/elections/orders-00 "},
		"self":         {[]string{"status", "-self", "a"}, 0, "", "", "GET /v1/elections/a "},
		"not self":     {[]string{"status", "-self", "orders-00"}, 4, "", "", "GET /v1/elections/orders-00 "},
		"unknown":      {[]string{"status", "b/c"}, 2, "", "elector: election \"b/c\": no such election\n", "GET /v1/elections/b%2Fc "},
		"no elector":   {[]string{"status", "broken"}, 2, "", "elector: the agent at " + address + " answered 502 Bad Gateway\n", "GET /v1/elections/broken "},
		"no JSON":      {[]string{"status", "html"}, 2, "", "elector: the agent's answer is not what an elector says: invalid character '<' looking for beginning of value\n", "GET /v1/elections/html "},
		"with a token": {[]string{"status", "-token-file", token, "-self", "a"}, 0, "", "", "GET /v1/elections/a Bearer secret"},
		"self of all":  {[]string{"status", "-self"}, 1, "", "elector: -self needs an election\n", ""},
		"joined one":   {[]string{"status", "-joined", "a"}, 1, "", "elector: -joined is for all elections\n", ""},
		"flags behind": {[]string{"status", "a", "-json"}, 1, "", "elector: flags have to come before \"a\": -json\n", ""},
		"bad flag":     {[]string{"status", "-jsn"}, 1, "", "elector: flag provided but not defined: -jsn; see elector status -help\n", ""},
		"bad address":  {[]string{"status", "-address=ftp://x"}, 1, "", "-address: is not host:port, http://…, https://… or unix:///path\n", ""},
		"missing file": {[]string{"status", "-token-file=/nope"}, 1, "", "-token-file: open /nope: no such file or directory\n", ""},
		"bad CA":       {[]string{"status", "-ca-file=" + token}, 1, "", "-ca-file: " + token + " has no certificate in PEM form\n", ""},
		"bad key pair": {[]string{"status", "-client-cert-file=/nope"}, 1, "", "-client-cert-file: a certificate and its key belong together; give the file of the key too\n", ""},

		"resign":            {[]string{"resign", "a"}, 0, "a: resigned\n", "", "DELETE /v1/elections/a "},
		"leave":             {[]string{"resign", "-leave", "a"}, 0, "a: resigned\n", "", "DELETE /v1/elections/a?leave=true "},
		"stay":              {[]string{"resign", "-leave=false", "a"}, 0, "a: resigned\n", "", "DELETE /v1/elections/a?leave=false "},
		"resign others'":    {[]string{"resign", "b"}, 2, "", "elector: not the leader; the leader is web-1\n", "DELETE /v1/elections/b "},
		"resign what":       {[]string{"resign"}, 1, "", "elector: give one election, and nothing else\n", ""},
		"hand over":         {[]string{"hand-over", "a", "web 2"}, 0, "a: handed over to web 2\n", "", "DELETE /v1/elections/a?to=web+2 "},
		"hand over to whom": {[]string{"hand-over", "a"}, 1, "", "elector: give an election and a candidate, and nothing else\n", ""},

		"watch":      {[]string{"watch", "a"}, 2, "leader web-1 (this agent)  address 10.0.0.7:80  token 26  term 3  candidates 2\nleader -  address -  token -  term -  candidates 0  error: consul cannot be reached\n", "elector: the agent ended the stream\n", "GET /v1/elections/a/watch "},
		"watch what": {[]string{"watch"}, 1, "", "elector: give one election, and nothing else\n", ""},

		"run what":         {[]string{"run", "--", "ls", "-help"}, 1, "", "elector: -election is missing\n", ""},
		"run badly":        {[]string{"run", "-ttl=1ms", "-election=a", "--", "ls"}, 1, "", "-ttl: 1ms is not between 1s and 1m0s\n", ""},
		"run, no grace":    {[]string{"run", "-grace=0", "-election=a", "--", "ls"}, 1, "", "elector: -grace and -kill-timeout must not be 0\n", ""},
		"run, no timeout":  {[]string{"run", "-kill-timeout=0s", "-election=a", "--", "ls"}, 1, "", "elector: -grace and -kill-timeout must not be 0\n", ""},
		"run no command":   {[]string{"run", "-election=a"}, 1, "", "command: is missing: give it after --\n", ""},
		"version":          {[]string{"version"}, 0, "elector " + agent.Version() + "\n", "", ""},
		"version of what":  {[]string{"version", "x"}, 1, "", "elector: there are no arguments, but 1 were given\n", ""},
		"agent, arguments": {[]string{"agent", "x"}, 1, "", "elector: there are no arguments, but 1 were given\n", ""},
		"agent, badly":     {[]string{"agent", "-ttl=1ms", "-id=-"}, 1, "", "-id: \"-\" is not 1 to 128 letters, digits, dots, underscores and dashes beginning with a letter or digit\n-ttl: 1ms is not between 1s and 1m0s\n", ""},
		"agent, validated": {[]string{"agent", "-validate", "-id=x", "-election=a[1-3]"}, 0, "The configuration is valid: candidate x, 3 elections.\n", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			*seen = nil
			code, out, err := run(c.args...)
			if c.args[0] == "watch" { // times are in front
				lines := strings.SplitAfter(out, "\n")
				for i, l := range lines {
					if _, rest, found := strings.Cut(l, "  "); found {
						lines[i] = rest
					}
				}
				out = strings.Join(lines, "")
			}
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

func TestWatchJSON(t *testing.T) {
	address, _ := fakeAgent(t)
	_, out, _ := run("watch", "-json", "-address", address, "a")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	must.SliceLen(t, 3, lines)
	var st election.Status
	must.NoError(t, json.Unmarshal([]byte(lines[2]), &st))
	must.Eq(t, "orders-00", st.Election)
}

// TestWatchInterrupted sends this process a SIGINT when the stream has begun.
func TestWatchInterrupted(t *testing.T) {
	address, _ := fakeAgent(t)
	out, in := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- Main([]string{"watch", "-json", "-address", address, "endless"}, in, os.Stderr)
		_ = in.Close() // it never fails
	}()
	_, err := out.Read(make([]byte, 1))
	must.NoError(t, err)
	must.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGINT))
	_, err = io.Copy(io.Discard, out)
	must.NoError(t, err)
	must.Eq(t, 0, <-code)
}

func TestNoAgent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "sock")
	code, _, err := run("status", "-address=unix://"+socket)
	must.Eq(t, 2, code)
	must.StrHasPrefix(t, "elector: ask the agent (is it running at unix://"+socket+"?): ", err)
	must.StrContains(t, err, "no such file")
}

func TestHelp(t *testing.T) {
	code, out, _ := run("-help")
	must.Eq(t, 0, code)
	for _, name := range []string{"agent", "hand-over", "resign", "run", "status", "version", "watch"} {
		must.StrContains(t, out, "    "+name+" ")
		code, help, err := run(name, "-help")
		must.Eq(t, 0, code)
		must.StrHasPrefix(t, "Usage: elector "+name, help+err)
		for _, l := range strings.Split(help+err, "\n") {
			must.StrNotContains(t, l, "=<value>", must.Sprint("a flag of "+name+" does not say what its value is"))
		}
	}
	must.StrNotContains(t, out, "guard")
	code, _, err := run("nonsense")
	must.Eq(t, 127, code)
	must.StrContains(t, err, "Available commands are:")
}

// TestAgent runs the agent without a Consul: it serves, is not ready and ends in order.
func TestAgent(t *testing.T) {
	dir, err := os.MkdirTemp("", "elector") // sockets need short paths
	must.NoError(t, err)
	defer func() { must.NoError(t, os.RemoveAll(dir)) }()
	socket := "unix://" + filepath.Join(dir, "sock")
	file := filepath.Join(dir, "elector.hcl")
	must.NoError(t, os.WriteFile(file, []byte(`
id = "web-1"
consul {
  address = "127.0.0.1:1"
}
election "orders-[0-1]" {}
election "publisher" {
  service {
    name = "publisher"
  }
}
`), 0o600))
	args := []string{"-config", file, "-listen", socket}
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	get := config.AgentSource(fs)
	must.NoError(t, fs.Parse(args))
	cfg, err := get()
	must.NoError(t, err)
	log := hclog.NewNullLogger()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- runAgent(ctx, cfg, log, nil)
	}()
	code, out := 2, ""
	for begin := time.Now(); code != 0 && time.Since(begin) < patience; time.Sleep(time.Millisecond) {
		code, out, _ = run("status", "-json", "-joined", "-address", socket)
	}
	var answer struct{ Elections []election.Status }
	must.NoError(t, json.Unmarshal([]byte(out), &answer))
	must.SliceLen(t, 3, answer.Elections)
	must.Eq(t, "publisher", answer.Elections[2].Election)
	must.NotEq(t, "", answer.Elections[2].Error)

	// Another one cannot have the socket.
	err = runAgent(ctx, cfg, log, nil)
	must.ErrorContains(t, err, "another process listens at")
	must.Eq(t, agent.ExitRuntime, agent.ExitCode(err))

	stop()
	select {
	case err := <-done:
		must.NoError(t, err)
	case <-time.After(patience):
		t.Fatal("the agent did not end")
	}
}
