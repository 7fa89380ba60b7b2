package cli

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/config"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/merge"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/server"
)

// fakeConsul knows the leaves of the service "leaf", by the names of their shards.
func fakeConsul(t *testing.T, leaves map[string]http.HandlerFunc) (address string) {
	t.Helper()
	var entries []*api.ServiceEntry
	for shard, h := range leaves {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		entries = append(entries, &api.ServiceEntry{
			Node: &api.Node{Node: "n", Address: "127.0.0.1"},
			Service: &api.AgentService{
				ID: "leaf-" + shard, Port: s.Listener.Addr().(*net.TCPAddr).Port, Meta: map[string]string{"shard": shard},
			},
		})
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/health/service/leaf" {
			http.NotFound(w, r)
			return
		}
		if r.URL.Query().Get("index") == "7" { // nothing changes
			<-r.Context().Done()
			return
		}
		w.Header().Set("X-Consul-Index", "7")
		_ = json.NewEncoder(w).Encode(entries)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// startAgent runs an agent with a route "GET /search" to a service "leaf". Stop tells it to
// end, and then ended has its error.
func startAgent(t *testing.T, args ...string) (address string, stop func(), ended <-chan error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "scatter") // sockets need short paths
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(dir)) })
	address = "unix://" + filepath.Join(dir, "sock")
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	get := config.AgentSource(fs)
	must.NoError(t, fs.Parse(append([]string{"-id=r", "-listen", address, "-route=GET /search", "-service=leaf"}, args...)))
	cfg, err := get()
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- runAgent(ctx, cfg, hclog.NewNullLogger(), nil) }()
	t.Setenv("SCATTER_ADDR", address)
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(time.Millisecond) {
		if code, _, _ := run("status", "-json"); code == 0 {
			return address, cancel, done
		}
	}
	t.Fatal("the agent does not serve")
	return "", nil, nil
}

// await is the error of an agent that has been told to end.
func await(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		t.Fatal("the agent did not end")
		return nil
	}
}

// health is whether the agent is ready, and why it is not.
func health(t *testing.T, address string) (ready bool, reason string) {
	t.Helper()
	base, err := agent.BaseURL(address)
	must.NoError(t, err)
	c := http.Client{Transport: agent.ClientTransport(nil)}
	defer c.CloseIdleConnections()
	resp, err := c.Get(base + "/v1/health")
	must.NoError(t, err)
	defer func() { must.NoError(t, resp.Body.Close()) }()
	var answer struct {
		Ready  bool
		Reason string
	}
	must.NoError(t, json.NewDecoder(resp.Body).Decode(&answer))
	return answer.Ready, answer.Reason
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for begin := time.Now(); !is(); time.Sleep(time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatal("never: " + what)
		}
	}
}

// TestAgent asks leaves by way of a root, and lets the root end while a request is under
// way.
func TestAgent(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	leaf := func(answer string, held bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if held && r.URL.Query().Get("q") == "slow" {
				close(arrived)
				<-release
			}
			if held && r.URL.Query().Get("q") == "broken" {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			_, _ = io.WriteString(w, answer)
		}
	}
	consul := fakeConsul(t, map[string]http.HandlerFunc{"0": leaf("[1]", false), "1": leaf("[1]", true)})
	address, stop, ended := startAgent(t, "-consul-address", consul, "-timeout=20s", "-min-coverage=0.5")
	eventually(t, "ready", func() bool { ready, _ := health(t, address); return ready })

	code, out, stderr := run("query", "/search?q=x")
	must.Eq(t, "Scatter-Coverage: ok=2, total=2\n", stderr)
	must.Eq(t, "[1,1]", out)
	must.Eq(t, 0, code)
	code, out, stderr = run("query", "/search?q=broken")
	must.Eq(t, "Scatter-Coverage: ok=1, total=2\nScatter-Missing: 1;reason=status\n", stderr)
	must.Eq(t, "[1]", out)
	must.Eq(t, exitPartial, code)
	code, _, stderr = run("query", "-min-coverage=1", "/search?q=broken")
	must.StrContains(t, stderr, "scatter: 1 of 2 leaves have answered")
	must.Eq(t, 2, code)
	code, out, _ = run("status")
	must.Eq(t, 0, code)
	must.StrContains(t, out, "leaf   GET /search  2       2 ")

	slow := make(chan int, 1)
	go func() {
		code, _, _ := run("query", "-min-coverage=1", "/search?q=slow")
		slow <- code
	}()
	<-arrived
	stop()
	eventually(t, "draining", func() bool { _, reason := health(t, address); return reason == "draining" })
	eventually(t, "closed", func() bool { // the drain begins a moment after
		_, _, stderr = run("query", "/search?q=x")
		return stderr == "scatter: this root is about to end\n"
	})
	close(release)
	must.Eq(t, 0, <-slow)
	must.NoError(t, await(t, ended))
}

// Without a Consul the agent serves, is not ready, and ends in order.
func TestAgentAlone(t *testing.T) {
	address, stop, ended := startAgent(t, "-consul-address=127.0.0.1:1")
	eventually(t, "trouble", func() bool {
		code, out, _ := run("status")
		return code == 0 && strings.Contains(out, "for Consul cannot be asked since") && strings.Contains(out, "connection refused")
	})
	ready, reason := health(t, address)
	must.False(t, ready)
	must.StrContains(t, reason, `route "leaf"`)
	code, _, stderr := run("query", "/search")
	must.Eq(t, 2, code)
	must.Eq(t, "scatter: service \"leaf\": no leaves\n", stderr)

	// Another one cannot have the socket.
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	get := config.AgentSource(fs)
	must.NoError(t, fs.Parse([]string{"-listen", address, "-route=/a", "-service=a"}))
	cfg, err := get()
	must.NoError(t, err)
	err = runAgent(t.Context(), cfg, hclog.NewNullLogger(), nil)
	must.ErrorContains(t, err, "another process listens at")
	must.Eq(t, agent.ExitRuntime, agent.ExitCode(err))

	stop()
	must.NoError(t, await(t, ended))
}

// closer is a merger that keeps something open.
type closer struct {
	merge.Merger
	err    error
	closed int
}

func (c *closer) Close() error { c.closed++; return c.err }

func TestCloseMergers(t *testing.T) {
	good, bad := &closer{}, &closer{err: io.ErrClosedPipe}
	err := closeMergers([]server.Route{{Name: "a", Merger: bad}, {Name: "b", Merger: merge.Concat{}}, {Name: "c", Merger: good}})
	must.EqError(t, err, `close the merger of route "a": io: read/write on closed pipe`)
	must.Eq(t, 1, good.closed)
}
