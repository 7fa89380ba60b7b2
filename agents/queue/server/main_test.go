package server

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/agents/queue/internal/fake"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what happens at once unless the code is broken.
const patience = 30 * time.Second

// node is a broker with its server.
type node struct {
	*fake.Broker
	*Server
	url    string
	client *http.Client
	catalog
	gate *gate
}

// gate holds the claims of a worker called "gone" between the claim and its answer, until
// the client has gone.
type gate struct {
	Broker
	entered, leave chan struct{}
}

func (g *gate) Claim(ctx context.Context, name string, req queue.ClaimRequest) (queue.ClaimResponse, error) {
	res, err := g.Broker.Claim(ctx, name, req)
	if req.Worker == "gone" {
		close(g.entered)
		<-g.leave
		<-ctx.Done() // it is told that the client has gone
	}
	return res, err
}

// catalog notes what it is shown.
type catalog chan string

func (c catalog) Show(name string, led []int) {
	text, err := json.Marshal(led)
	if err != nil {
		panic(err)
	}
	c <- name + " " + string(text)
}

func (catalog) Failures() uint64 { return 3 }

// nodes starts servers of one cluster.
func nodes(t *testing.T, n int) []*node {
	t.Helper()
	cluster := fake.NewCluster()
	var all []*node
	for range n {
		mux := http.NewServeMux()
		all = append(all, newNode(t, cluster, mux))
	}
	return all
}

func newNode(t *testing.T, cluster *fake.Cluster, mux *http.ServeMux) *node {
	t.Helper()
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	n := &node{
		Broker: &fake.Broker{Cluster: cluster, Address: srv.URL}, url: srv.URL, catalog: make(catalog, 100),
		client: &http.Client{Transport: &http.Transport{}, Timeout: patience},
	}
	t.Cleanup(n.client.CloseIdleConnections)
	n.gate = &gate{Broker: n.Broker, entered: make(chan struct{}), leave: make(chan struct{})}
	var err error
	n.Server, err = New(Config{Broker: n.gate, Address: srv.URL, Catalog: n.catalog, PeerToken: "secret"})
	must.NoError(t, err)
	t.Cleanup(n.Close)
	n.Routes(mux.Handle)
	return n
}

// makeQueue makes a queue whose shards these nodes lead in turn.
func makeQueue(t *testing.T, name string, shards int, leaders ...*node) {
	t.Helper()
	_, err := leaders[0].Create(t.Context(), name, queue.Config{Shards: shards})
	must.NoError(t, err)
	for k := range shards {
		leaders[0].Lead(name, k, leaders[k%len(leaders)].url)
	}
}

// reply is an answer.
type reply struct {
	code int
	body string
	head http.Header
}

func (n *node) do(t *testing.T, method, path, body string, headers ...string) reply {
	t.Helper()
	r, err := n.try(t.Context(), method, path, body, headers...)
	must.NoError(t, err)
	return r
}

func (n *node) try(ctx context.Context, method, path, body string, headers ...string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, n.url+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, strings.TrimSpace(string(b)), resp.Header}, err
}

// decode reads a body.
func decode[T any](t *testing.T, r reply) (out T) {
	t.Helper()
	must.Eq(t, http.StatusOK, r.code, must.Sprint(r.body))
	must.NoError(t, json.Unmarshal([]byte(r.body), &out), must.Sprint(r.body))
	return out
}

// start is a time for tests with a clock of their own.
var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func secs(n int) time.Duration { return time.Duration(n) * time.Second }
