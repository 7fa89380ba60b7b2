package manage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

// startNode runs the part of a process in the endpoint, with a metric of its
// own, until the test ends or stop is called.
func startNode(t *testing.T, cfg Config, driver string, tasks ...*Task) (stop func()) {
	t.Helper()
	return runNode(t, newNode(t, cfg, driver, tasks...))
}

func newNode(t *testing.T, cfg Config, driver string, tasks ...*Task) *Node {
	t.Helper()
	r := NewRegistry()
	for _, one := range tasks {
		r.Add(one)
	}
	metrics := prometheus.NewRegistry()
	starts := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "starts_total", Help: "Starts."}, []string{"kind"})
	starts.WithLabelValues("cold").Add(float64(len(tasks)))
	metrics.MustRegister(starts)
	n, err := NewNode(NodeOptions{Config: cfg, Driver: driver, Registry: r, Metrics: metrics})
	must.NoError(t, err)
	n.poll = 5 * time.Millisecond
	return n
}

func runNode(t *testing.T, n *Node) (stop func()) {
	t.Helper()
	stop = background(t, n.Run)
	// Both its own socket and somebody's for the node.
	for _, name := range []string{socketName(n.driver), nodeSocket} {
		eventually(t, func() error {
			conn, err := connect(context.Background(), filepath.Join(n.cfg.Dir, name))
			if err == nil {
				_ = conn.Close()
			}
			return err
		})
	}
	return stop
}

func list(t *testing.T, c *http.Client) (tasks []string, drivers map[string]string) {
	t.Helper()
	code, body := get(t, c, "/v1/tasks")
	must.Eq(t, 200, code)
	var l listing
	must.NoError(t, json.Unmarshal([]byte(body), &l))
	for _, one := range l.Tasks {
		tasks = append(tasks, one.Driver+" "+one.AllocID[:8]+" "+one.Task)
	}
	drivers = make(map[string]string)
	for _, d := range l.Drivers {
		drivers[d.Driver] = d.Error
	}
	return tasks, drivers
}

func TestNode_Merged(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "run")}
	allocDir, _ := logDir(t, map[string]string{"app.stdout.0": "hello\n"})
	profiled := taskWith(t, KindProfile, "/debug/pprof", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.URL.String(), r.Header["Authorization"])
	})
	profiled.AllocDir = allocDir
	app := profiled.App.(*fakeApp)
	app.info.Saves = true
	app.save = func(context.Context) (Checkpoint, error) {
		return Checkpoint{}, httpapi.Errorf(503, "", "not now").After(time.Second)
	}
	startNode(t, cfg, "lifecycle-docker", profiled)
	startNode(t, cfg, "lifecycle-exec", &Task{App: newApp(allocA, "proxy")}, &Task{App: newApp(allocC, "app")})
	c := atSocket(filepath.Join(cfg.Dir, nodeSocket))

	tasks, drivers := list(t, c)
	must.Eq(t, []string{"lifecycle-docker aaaaaaaa app", "lifecycle-exec aaaaaaaa proxy", "lifecycle-exec aaaaaaaa app"}, tasks)
	must.Eq(t, map[string]string{"lifecycle-docker": "", "lifecycle-exec": ""}, drivers)

	for name, r := range map[string]struct {
		method, path string
		code         int
		want         string
	}{
		"task":             {"GET", "/v1/tasks/" + allocC + "/app", 200, `"driver":"lifecycle-exec"`},
		"state":            {"GET", "/v1/tasks/aaaaaaaa/proxy/state", 200, `"task":"proxy"`},
		"ambiguous":        {"GET", "/v1/tasks/aaaaaaaa/app/state", 409, allocC},
		"unknown":          {"GET", "/v1/tasks/dddddddd/app/state", 404, "no managed task"},
		"short":            {"GET", "/v1/tasks/aaaa/app/state", 400, "8 characters"},
		"profile":          {"GET", pathA + "/profile/heap?debug=1", 200, "/debug/pprof/heap?debug=1[]"},
		"profile index":    {"GET", pathA + "/profile/", 200, "/debug/pprof/[]"},
		"odd profile":      {"GET", pathA + "/profile/a%2Fb", 200, "/debug/pprof/a/b[]"},
		"no profile":       {"GET", "/v1/tasks/aaaaaaaa/proxy/profile/heap", 404, "offers no profile"},
		"logs":             {"GET", pathA + "/logs/stdout?tail=1", 200, "hello"},
		"save":             {"POST", pathA + "/save", 503, "not now"},
		"save unknown":     {"POST", "/v1/tasks/aaaaaaaa/proxy/save", 409, "no checkpoint block"},
		"save with a body": {"POST", pathA + "/save", 503, "not now"},
		"other method":     {"DELETE", pathA + "/state", 405, "DELETE is not possible"},
		"no such thing":    {"GET", pathA + "/secrets", 404, "there is no"},
		"post to the list": {"POST", "/v1/tasks", 405, "POST is not possible on /v1/tasks, but GET"},
		"health":           {"GET", "/v1/health", 200, `{"ready":true,"drivers":[{"driver":"lifecycle-docker"},{"driver":"lifecycle-exec"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest(r.method, "http://localhost"+r.path, nil)
			must.NoError(t, err)
			req.Header.Set("Authorization", "Bearer secret") // goes no further
			if name == "save with a body" {
				req.Body, req.ContentLength = http.NoBody, 0
			}
			resp, err := c.Do(req)
			must.NoError(t, err)
			defer func() { _ = resp.Body.Close() }()
			body, err := readAll(resp)
			must.NoError(t, err)
			must.StrContains(t, body, r.want)
			must.Eq(t, r.code, resp.StatusCode)
			if name == "save" {
				must.Eq(t, "1", resp.Header.Get("Retry-After"))
			}
		})
	}

	t.Run("events", func(t *testing.T) {
		resp, err := c.Get("http://localhost" + pathA + "/events")
		must.NoError(t, err)
		defer func() { _ = resp.Body.Close() }()
		r := bufioReader(resp)
		e, _, err := readEvent(r)
		must.NoError(t, err)
		must.Eq(t, lifecycle.Running, e.data.State)
		must.True(t, app.machine.To(lifecycle.Destroyed, nil))
		for _, want := range []string{eventState, eventEnd} {
			e, _, err := readEvent(r)
			must.NoError(t, err)
			must.Eq(t, want, e.name)
		}
	})
}

func TestNode_Metrics(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "run")}
	startNode(t, cfg, "a", &Task{App: newApp(allocA, "app")})
	startNode(t, cfg, "b")
	broken := &http.ServeMux{}
	broken.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{{{") })
	servePeer(t, cfg.Dir, "c", broken)
	other := &http.ServeMux{} // of another version
	gauge := prometheus.NewRegistry()
	gauge.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "starts_total"}))
	other.Handle("/metrics", promhttp.HandlerFor(gauge, promhttp.HandlerOpts{}))
	servePeer(t, cfg.Dir, "d", other)
	code, header, body := do(t, atSocket(filepath.Join(cfg.Dir, nodeSocket)), "GET", "/metrics", "")
	must.Eq(t, 200, code)
	must.StrHasPrefix(t, "text/plain; version=0.0.4", header.Get("Content-Type"))
	must.Eq(t, `# HELP nomad_lifecycle_endpoint_up Whether the plugin process of a driver has answered.
# TYPE nomad_lifecycle_endpoint_up gauge
nomad_lifecycle_endpoint_up{driver="a"} 1
nomad_lifecycle_endpoint_up{driver="b"} 1
nomad_lifecycle_endpoint_up{driver="c"} 0
nomad_lifecycle_endpoint_up{driver="d"} 0
# HELP starts_total Starts.
# TYPE starts_total counter
starts_total{kind="cold",driver="a"} 1
starts_total{kind="cold",driver="b"} 0`, body)
}

// servePeer serves h like another process of the node.
func servePeer(t *testing.T, dir, driver string, h http.Handler) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(dir, socketName(driver)))
	must.NoError(t, err)
	srv := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		must.NoError(t, srv.Close())
		must.ErrorIs(t, <-done, http.ErrServerClosed)
	})
}

// When the process that serves the node ends, another one takes its place, and
// the sockets that were left are gone.
func TestNode_Takeover(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "run")}
	stopFirst := startNode(t, cfg, "a", &Task{App: newApp(allocA, "app")})
	startNode(t, cfg, "b", &Task{App: newApp(allocB, "app")})
	c := atSocket(filepath.Join(cfg.Dir, nodeSocket))
	tasks, _ := list(t, c)
	must.Len(t, 2, tasks)
	stopFirst()
	eventually(t, func() error {
		conn, err := connect(context.Background(), filepath.Join(cfg.Dir, nodeSocket))
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	tasks, drivers := list(t, c)
	must.Eq(t, []string{"b bbbbbbbb app"}, tasks)
	must.Eq(t, map[string]string{"b": ""}, drivers)

	// And the first comes back, as a follower.
	startNode(t, cfg, "a", &Task{App: newApp(allocA, "app")})
	tasks, _ = list(t, c)
	must.Eq(t, []string{"a aaaaaaaa app", "b bbbbbbbb app"}, tasks)
}

// Two processes of one driver, the old and the new one of an update, follow each
// other.
func TestNode_SameDriver(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "run")}
	stopOld := startNode(t, cfg, "a", &Task{App: newApp(allocA, "app")})
	startNode(t, cfg, "a", &Task{App: newApp(allocB, "app")}) // what it waits for is the old one's
	c := atSocket(filepath.Join(cfg.Dir, socketName("a")))
	tasks, _ := list(t, c)
	must.Eq(t, []string{"a aaaaaaaa app"}, tasks)
	stopOld()
	eventually(t, func() error {
		conn, err := connect(context.Background(), filepath.Join(cfg.Dir, socketName("a")))
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	tasks, _ = list(t, c)
	must.Eq(t, []string{"a bbbbbbbb app"}, tasks)
}

// deadSocket leaves a socket as a process does that was killed.
func deadSocket(t *testing.T, path string) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	must.NoError(t, err)
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	must.NoError(t, ln.Close())
}

func TestNode_Stale(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "run")}
	must.NoError(t, os.Mkdir(cfg.Dir, 0o700))
	path := filepath.Join(cfg.Dir, socketName("dead"))
	deadSocket(t, path)
	deadSocket(t, filepath.Join(cfg.Dir, nodeSocket))
	startNode(t, cfg, "a")
	_, err := os.Lstat(path)
	must.ErrorIs(t, err, fs.ErrNotExist)

	// One that dies later is found when it is asked, and not in the list.
	deadSocket(t, path)
	c := atSocket(filepath.Join(cfg.Dir, nodeSocket))
	_, drivers := list(t, c)
	must.Eq(t, map[string]string{"a": ""}, drivers)
	_, err = os.Lstat(path)
	must.ErrorIs(t, err, fs.ErrNotExist)

	// The socket of a process that has its lock is left alone: it is just starting.
	deadSocket(t, path)
	dir, err := os.Open(cfg.Dir)
	must.NoError(t, err)
	lock, err := tryLock(dir, lockName("dead"))
	must.NoError(t, err)
	must.NotNil(t, lock)
	_, drivers = list(t, c)
	must.Eq(t, map[string]string{"a": ""}, drivers)
	_, err = os.Lstat(path)
	must.NoError(t, err)
	must.NoError(t, errors.Join(lock.Close(), dir.Close()))
}

// A process that does not answer costs its time, is named, and hides
// nobody else's tasks.
func TestNode_HungPeer(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "run")}
	n := newNode(t, cfg, "a", &Task{App: newApp(allocA, "app")})
	n.limit = time.Second // for "a" to answer on a busy machine
	runNode(t, n)
	hung, err := net.Listen("unix", filepath.Join(cfg.Dir, socketName("hung"))) // accepts nothing
	must.NoError(t, err)
	defer func() { must.NoError(t, hung.Close()) }()
	c := atSocket(filepath.Join(cfg.Dir, nodeSocket))
	begin := time.Now()
	tasks, drivers := list(t, c)
	must.Less(t, patience/2, time.Since(begin))
	must.Eq(t, []string{"a aaaaaaaa app"}, tasks)
	must.Eq(t, map[string]string{"a": "", "hung": "no answer within 1s"}, drivers)

	code, body := get(t, c, pathA+"/state")
	must.Eq(t, 200, code)
	must.StrContains(t, body, allocA)
	code, body = get(t, c, "/v1/tasks/"+allocB+"/app/state") // perhaps it is there
	must.Eq(t, 502, code)
	must.StrContains(t, body, "no answer from hung (no answer within 1s)")
	code, body = get(t, c, "/v1/health")
	must.Eq(t, 503, code)
	must.Eq(t, `{"ready":false,"drivers":[{"driver":"a"},{"driver":"hung","error":"no answer within 1s"}]}`, body)
}

// What answers nonsense at a socket is named as well.
func TestNode_OddPeer(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "run")}
	startNode(t, cfg, "a")
	mux := &http.ServeMux{}
	mux.HandleFunc("/v1/tasks", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "no JSON") })
	servePeer(t, cfg.Dir, "odd", mux)
	_, drivers := list(t, atSocket(filepath.Join(cfg.Dir, nodeSocket)))
	must.Eq(t, "", drivers["a"])
	must.StrContains(t, drivers["odd"], "invalid character")
	code, body := get(t, atSocket(filepath.Join(cfg.Dir, nodeSocket)), "/v1/health")
	must.Eq(t, 503, code)
	must.StrContains(t, body, "it answers with status 404")
}

// The token is for the endpoint and goes no further, not even to a process of
// the node.
func TestNode_TokenStays(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "run")}
	startNode(t, cfg, "a")
	mux := &http.ServeMux{}
	mux.HandleFunc("/v1/tasks", func(w http.ResponseWriter, _ *http.Request) {
		httpapi.WriteJSON(w, 200, listing{Tasks: []status{{Info: Info{AllocID: allocA, Task: "app"}, Driver: "b"}}})
	})
	mux.HandleFunc(pathA+"/state", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Host, r.Header["Authorization"])
	})
	servePeer(t, cfg.Dir, "b", mux)
	req, err := http.NewRequest(http.MethodGet, "http://x/v1/tasks/aaaaaaaa/app/state", nil)
	must.NoError(t, err)
	req.Header.Set("Authorization", "Bearer secret")
	resp, err := atSocket(filepath.Join(cfg.Dir, nodeSocket)).Do(req)
	must.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := readAll(resp)
	must.NoError(t, err)
	must.Eq(t, "localhost[]", body)
}

func TestNode_Directory(t *testing.T) {
	run := func(dir string) error {
		n, err := NewNode(NodeOptions{Config: Config{Dir: dir}, Driver: "a", Registry: NewRegistry(), Metrics: prometheus.NewRegistry()})
		must.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // a directory that is right has nothing to serve
		return n.Run(ctx)
	}
	base := t.TempDir()
	deep := filepath.Join(base, "a", "b")
	must.NoError(t, run(deep))
	st, err := os.Stat(deep)
	must.NoError(t, err)
	must.Eq(t, fs.ModeDir|0o700, st.Mode())

	open := filepath.Join(base, "open")
	must.NoError(t, os.Mkdir(open, 0o700))
	must.NoError(t, os.Chmod(open, 0o755))
	must.ErrorContains(t, run(open), "endpoint.dir: "+open+" belongs to user")

	link := filepath.Join(base, "link")
	must.NoError(t, os.Symlink(deep, link))
	must.ErrorContains(t, run(link), "endpoint.dir: open "+link)
	must.ErrorContains(t, run(write(t, filepath.Join(base, "file"), "")), "not a directory")
}

// The endpoint's own paths may be long as well.
func TestNode_LongPath(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), strings.Repeat("x", 120))}
	startNode(t, cfg, "a", &Task{App: newApp(allocA, "app")})
	tasks, _ := list(t, atSocket(filepath.Join(cfg.Dir, nodeSocket)))
	must.Len(t, 1, tasks)
}

// A port that somebody else has is tried again and takes nothing else down.
func TestNode_PortTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	defer func() { must.NoError(t, taken.Close()) }()
	cfg := Config{
		Dir: filepath.Join(t.TempDir(), "run"), Listen: taken.Addr().String(),
		TokenFile: write(t, filepath.Join(t.TempDir(), "token"), token),
	}
	startNode(t, cfg, "a", &Task{App: newApp(allocA, "app")})
	tasks, _ := list(t, atSocket(filepath.Join(cfg.Dir, nodeSocket)))
	must.Len(t, 1, tasks)
}
