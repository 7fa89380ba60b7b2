package hook

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

// TestMain sets a proxy that nothing listens at, for all tests: the first use of
// net/http's proxy settings keeps them for ever, so a single test could not.
func TestMain(m *testing.M) {
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"} {
		if err := os.Setenv(name, "http://127.0.0.1:9"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for something that happens at once unless
// the code is broken. No test measures it.
const patience = 30 * time.Second

// request is what a recorder has seen.
type request struct {
	method, path, query, host, body string
	header                          http.Header
}

// recorder is an HTTP server that keeps its requests and answers with the codes
// given to it, the last one for ever.
type recorder struct {
	mu    sync.Mutex // guards all fields below
	seen  []request
	codes []int
	reply string
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, request{req.Method, req.URL.Path, req.URL.RawQuery, req.Host, string(body), req.Header})
	code := http.StatusOK
	if n := len(r.codes); n > 0 {
		code = r.codes[min(len(r.seen), n)-1]
	}
	w.WriteHeader(code)
	_, _ = io.WriteString(w, r.reply) // a client that has gone is no failure of the test
}

func (r *recorder) requests() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]request(nil), r.seen...)
}

// serve starts an HTTP server on a free port of the loopback.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// serveOn starts an HTTP server on a listener.
func serveOn(t *testing.T, l net.Listener, h http.Handler) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	must.NoError(t, s.Listener.Close())
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
}

// taskDir is a task's directory with an empty local/ in it. It lies directly
// below the system's directory for temporary files, so that socket paths are
// short.
func taskDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hook")
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(dir)) })
	must.NoError(t, os.Mkdir(filepath.Join(dir, "local"), 0o755))
	return dir
}

func listenUnix(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	must.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() }) // a server may have closed it already
	return l
}

func mustNew(t *testing.T, kind Kind, s Spec) *Hook {
	t.Helper()
	h, err := New(kind, 0, s)
	must.NoError(t, err)
	return h
}

// run runs a hook and fails the test if it does not return.
func run(t *testing.T, ctx context.Context, h *Hook, ev Event, target Target) Outcome {
	t.Helper()
	done := make(chan Outcome, 1)
	go func() { done <- Run(ctx, h, ev, target) }()
	select {
	case o := <-done:
		return o
	case <-time.After(patience):
		t.Fatal("hook did not return")
		return Outcome{}
	}
}

// hang is a handler that answers nobody: it ends when the client has left.
func hang() http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		// A client's leaving is noticed only after its body has been read.
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
}
