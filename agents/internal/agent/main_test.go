package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what happens at once unless the code is broken.
const patience = 30 * time.Second

// running is an agent that runs in a test.
type running struct {
	*Agent
	signals chan os.Signal
	stop    context.CancelFunc // ends Run's context
	done    chan error         // what run returned
	http    *http.Client
	url     string
}

// start runs an agent until the end of the test. An option without an address listens
// on a unix socket.
func start(t *testing.T, opts Options, handlers map[string]http.HandlerFunc) *running {
	t.Helper()
	if opts.Listen.Address.V == "" {
		opts.Listen.Address.V = "unix://" + filepath.Join(shortDir(t), "sock")
	}
	if opts.Name == "" {
		opts.Name = "test"
	}
	opts.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: testWriter{t}})
	a, err := New(t.Context(), opts)
	must.NoError(t, err)
	for pattern, h := range handlers {
		a.Handle(pattern, h)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Agent: a, signals: make(chan os.Signal), stop: stop, done: make(chan error, 1)}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, a.Addr().Network(), a.Addr().String())
	}}
	r.http = &http.Client{Transport: transport}
	r.url = "http://agent"
	go func() { r.done <- a.run(ctx, r.signals) }()
	t.Cleanup(func() {
		stop()
		transport.CloseIdleConnections()
		select {
		case err := <-r.done:
			r.done <- err
		case <-time.After(patience):
			t.Error("the agent did not end")
		}
	})
	return r
}

// ended waits for the end of Run.
func (r *running) ended(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		r.done <- err // for the cleanup
		return err
	case <-time.After(patience):
		t.Fatal("the agent did not end")
		return nil
	}
}

// do makes a request and returns status, header and body.
func (r *running) do(t *testing.T, method, path, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url+path, strings.NewReader(body))
	must.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.http.Do(req)
	must.NoError(t, err)
	data, err := io.ReadAll(resp.Body)
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	return resp.StatusCode, resp.Header, strings.TrimSpace(string(data))
}

// shortDir is a temporary directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// write makes a file and returns its path.
func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	must.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// receive takes a value from a channel.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}
