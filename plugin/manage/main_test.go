package manage

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what happens at once.
const patience = 20 * time.Second

const (
	allocA = "aaaaaaaa-1111-4222-8333-444444444444"
	allocB = "bbbbbbbb-1111-4222-8333-444444444444"
	allocC = "aaaaaaaa-9999-4222-8333-444444444444" // begins like allocA
)

// fakeApp is an App around a real machine.
type fakeApp struct {
	info      Info
	machine   *lifecycle.Machine
	save      func(context.Context) (Checkpoint, error)
	replicate func(context.Context, int64) (Scaled, error)

	mu   sync.Mutex
	last *Checkpoint
}

func newApp(alloc, task string) *fakeApp {
	return &fakeApp{
		info:    Info{Namespace: "default", Job: "shop", Group: "web", Task: task, AllocID: alloc, Index: 2},
		machine: lifecycle.New(lifecycle.Running, time.Now, nil),
	}
}

func (a *fakeApp) Info() Info                                  { return a.info }
func (a *fakeApp) Status() (lifecycle.Status, <-chan struct{}) { return a.machine.Status() }
func (a *fakeApp) Checkpoint() (Checkpoint, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil {
		return Checkpoint{}, false
	}
	return *a.last, true
}

func (a *fakeApp) Save(ctx context.Context) (Checkpoint, error) { return a.save(ctx) }
func (a *fakeApp) Replicate(ctx context.Context, delta int64) (Scaled, error) {
	return a.replicate(ctx, delta)
}

// connect dials a unix socket whose path may be long.
func connect(ctx context.Context, path string) (net.Conn, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	var d net.Dialer
	return d.DialContext(ctx, "unix", "/proc/self/fd/"+itoa(int(dir.Fd()))+"/"+filepath.Base(path))
}

func itoa(i int) string {
	b, _ := json.Marshal(i)
	return string(b)
}

// client talks HTTP to whatever dial connects to.
func client(dial func(context.Context) (net.Conn, error)) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives:  true,
		DisableCompression: true,
	}}
}

func atSocket(path string) *http.Client {
	return client(func(ctx context.Context) (net.Conn, error) { return connect(ctx, path) })
}

// do sends a request and returns status, header and body without the final
// newline.
func do(t *testing.T, c *http.Client, method, path, body string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	must.NoError(t, err)
	resp, err := c.Do(req)
	must.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	must.NoError(t, err)
	return resp.StatusCode, resp.Header, strings.TrimSuffix(string(data), "\n")
}

func get(t *testing.T, c *http.Client, path string) (int, string) {
	t.Helper()
	code, _, body := do(t, c, http.MethodGet, path, "")
	return code, body
}

// eventually waits for what another goroutine does soon.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	must.Wait(t, wait.InitialSuccess(wait.ErrorFunc(f), wait.Timeout(patience), wait.Gap(5*time.Millisecond)))
}

// background runs f until the test ends or stop is called.
func background(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		must.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

// serveApp serves app at a socket and returns a client for it.
func serveApp(t *testing.T, app App, opts Options) *http.Client {
	t.Helper()
	dir := t.TempDir()
	ln, err := Listen(dir, Owner{})
	must.NoError(t, err)
	background(t, func(ctx context.Context) error { return Serve(ctx, ln, app, opts) })
	return atSocket(filepath.Join(dir, SocketName))
}

// event is a server-sent event.
type event struct {
	name string
	data status
}

// readEvent returns the next event, and how many comments came before it.
func readEvent(r *bufio.Reader) (e event, comments int, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return e, comments, err
		}
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "" && e.name != "":
			return e, comments, nil
		case strings.HasPrefix(line, ":"):
			comments++
		case strings.HasPrefix(line, "event: "):
			e.name = strings.TrimPrefix(line, "event: ")
		case strings.HasPrefix(line, "data: "):
			if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &e.data); err != nil {
				return e, comments, err
			}
		}
	}
}

// pipes is a listener in memory, so that time can be that of synctest.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func readAll(resp *http.Response) (string, error) {
	data, err := io.ReadAll(resp.Body)
	return string(data), err
}

func bufioReader(resp *http.Response) *bufio.Reader { return bufio.NewReader(resp.Body) }
