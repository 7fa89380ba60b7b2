// Package scatter_test runs the parts of the agent scatter against a real Consul and real
// leaves, which come and go, hang and die, and checks that no answer says that it is more
// than it is.
package scatter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/merge"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds one test.
const patience = time.Minute

// leaf is an instance of a service. It answers with its name, in a list.
type leaf struct {
	t      *testing.T
	consul *api.Client
	id     string
	server *http.Server
	addr   string
	done   chan struct{}
	hang   atomic.Bool // it takes requests and does not answer
	fail   atomic.Bool // it answers 500
}

// startLeaf starts a leaf and registers it.
func startLeaf(t *testing.T, consul *api.Client, service, shard, id string) *leaf {
	t.Helper()
	l := &leaf{t: t, consul: consul, id: id, done: make(chan struct{})}
	l.server = &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case l.hang.Load():
			select {
			case <-r.Context().Done():
			case <-l.done:
			}
		case l.fail.Load():
			w.WriteHeader(http.StatusInternalServerError)
		default:
			_, _ = fmt.Fprintf(w, "[%q]", shard+"/"+id)
		}
	})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	l.addr = listener.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() { _ = l.server.Serve(listener) })
	t.Cleanup(func() {
		l.kill()
		serving.Wait()
	})
	host, port, err := net.SplitHostPort(l.addr)
	must.NoError(t, err)
	n, err := strconv.Atoi(port)
	must.NoError(t, err)
	must.NoError(t, consul.Agent().ServiceRegister(&api.AgentServiceRegistration{
		ID: id, Name: service, Address: host, Port: n, Meta: map[string]string{"shard": shard},
	}))
	return l
}

// kill ends the leaf at once, with all requests. Consul is not told.
func (l *leaf) kill() {
	select {
	case <-l.done:
	default:
		close(l.done)
		_ = l.server.Close()
	}
}

// leave tells Consul that the leaf is going.
func (l *leaf) leave() {
	l.t.Helper()
	must.NoError(l.t, l.consul.Agent().ServiceDeregister(l.id))
}

// root is a root in this process.
type root struct {
	*server.Server
	url string
	t   *testing.T
	ctx context.Context
}

// startRoot starts a root with a route that asks a service.
func startRoot(t *testing.T, consul *api.Client, id, service string, cfg gather.Config) *root {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s, err := server.New(server.Config{ID: id, Consul: consul, Routes: []server.Route{{
		Name: "r", Pattern: "GET /ask", Service: service, ShardMeta: "shard", Gather: cfg, Merger: merge.JSONArray{},
	}}})
	must.NoError(t, err)
	mux := http.NewServeMux()
	s.Routes(mux.Handle)
	front := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	t.Cleanup(front.Close)
	return &root{s, front.URL, t, ctx}
}

// shards waits until the root knows so many shards and leaves.
func (r *root) shards(shards, leaves int) {
	r.t.Helper()
	r.until(fmt.Sprintf("%d shards with %d leaves", shards, leaves), func() bool {
		st := r.Status()[0]
		n := 0
		for _, s := range st.Shards {
			n += len(s.Leaves)
		}
		return len(st.Shards) == shards && n == leaves
	})
}

func (r *root) until(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-r.ctx.Done():
			r.t.Fatalf("not within %s: %s: %+v", patience, what, r.Status())
		case <-tick.C:
		}
	}
}

// answer is what a root has said.
type answer struct {
	status    int
	ok, total int
	missing   string
	leaves    []string // in the answer
	took      time.Duration
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// ask asks a root.
func ask(ctx context.Context, url string, coverage float64) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/ask", nil)
	if err != nil {
		return answer{}, err
	}
	if coverage > 0 {
		req.Header.Set(server.CoverageWantedHeader, fmt.Sprint(coverage))
	}
	begin := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	body, err := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, missing: resp.Header.Get(gather.MissingHeader), took: time.Since(begin)}
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return a, err
	}
	if text := resp.Header.Get(gather.CoverageHeader); text != "" {
		if _, err := fmt.Sscanf(text, "ok=%d, total=%d", &a.ok, &a.total); err != nil {
			return a, fmt.Errorf("coverage %q: %w", text, err)
		}
	}
	if a.status != http.StatusOK {
		return a, nil
	}
	err = json.Unmarshal(body, &a.leaves)
	slices.Sort(a.leaves)
	return a, err
}

func (r *root) get(coverage float64) answer {
	r.t.Helper()
	a, err := ask(r.ctx, r.url, coverage)
	must.NoError(r.t, err)
	return a
}

func joined(a answer) string { return strings.Join(a.leaves, " ") }
