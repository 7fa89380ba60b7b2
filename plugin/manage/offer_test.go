package manage

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/shoenig/test/must"
)

// serveTasks serves the tasks of a process in memory.
func serveTasks(t *testing.T, tasks ...*Task) *http.Client {
	t.Helper()
	r := NewRegistry()
	for _, one := range tasks {
		r.Add(one)
	}
	o := Options{}.withDefaults()
	u := newUpward(newServer(o.Logger), "lifecycle-docker", r, prometheus.NewRegistry(), o.Now)
	ln := newPipes()
	background(t, func(ctx context.Context) error { return u.serve(ctx, ln) })
	return client(ln.dial)
}

// taskWith is a task that offers kind at path, served by h.
func taskWith(t *testing.T, kind Kind, path string, h http.HandlerFunc) *Task {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return &Task{App: newApp(allocA, "app"), Offers: []Offer{{Kind: kind, Path: path, Scheme: "http", Dial: dialTo(srv)}}}
}

func dialTo(srv *httptest.Server) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", srv.Listener.Addr().String())
	}
}

const pathA = "/v1/tasks/" + allocA + "/app"

func TestOffer_Answers(t *testing.T) {
	for name, c := range map[string]struct {
		kind       Kind
		at, path   string
		h          http.HandlerFunc
		code       int
		want       string
		wantHeader map[string]string
	}{
		"passed on": {KindHealth, "/ready", "/health", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/x")
			w.Header().Set("Set-Cookie", "a=b")
			w.Header().Set("X-Own", "y")
			fmt.Fprint(w, r.Method+" "+r.URL.String()+" "+r.Host)
		}, 200, "GET /ready localhost", map[string]string{"Content-Type": "text/x", "Set-Cookie": "", "X-Own": ""}},
		"its own status": {KindHealth, "/ready", "/health", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, "warming up")
		}, 503, "warming up", nil},
		"query": {KindMetrics, "/metrics", "/metrics?name[]=up&x=1", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.URL.RawQuery)
		}, 200, "name[]=up&x=1", nil},
		"redirect": {KindConfig, "/config", "/config", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		}, 502, `{"error":"the task's config answers with a redirect (302), which is not followed; write the path that it leads to into the job"}`, nil},
		"not offered": {KindConfig, "/config", "/profile/heap", nil, 404,
			`{"error":"task \"app\" offers no profile: its job's lifecycle block has no manage { profile { … } }"}`, nil},
		"too large": {KindMetrics, "/metrics", "/metrics", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(maxPassed+1))
		}, 502, fmt.Sprintf(`{"error":"the task's metrics has %d bytes; at most %d are passed on"}`, maxPassed+1, maxPassed), nil},
		"no HTTP": {KindMetrics, "/metrics", "/metrics", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = conn.Write([]byte("SSH-2.0\r\n"))
				_ = conn.Close()
			}
		}, 502, `{"error":"ask the task's metrics: net/http: HTTP/1.x transport connection broken: malformed HTTP response \"SSH-2.0\""}`, nil},
		"switching protocols": {KindMetrics, "/metrics", "/metrics", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"))
				_ = conn.Close()
			}
		}, 502, `{"error":"the task's metrics answers with status 101"}`, nil},
		"profile index":       {KindProfile, "/debug/pprof", "/profile/", echoPath, 200, "/debug/pprof/", nil},
		"profile itself":      {KindProfile, "/debug/pprof", "/profile", echoPath, 200, "/debug/pprof", nil},
		"profile below":       {KindProfile, "/debug/pprof", "/profile/heap?debug=1", echoPath, 200, "/debug/pprof/heap", nil},
		"profile slash":       {KindProfile, "/debug/pprof/", "/profile/a/b/", echoPath, 200, "/debug/pprof/a/b/", nil},
		"profile stays below": {KindProfile, "/debug/pprof", "/profile/%2e%2e/%2e%2e/etc", echoPath, 200, "/debug/pprof/etc", nil},
		"profile odd name":    {KindProfile, "/debug/pprof", "/profile/a%3Fb", echoPath, 200, "/debug/pprof/a?b", nil},
		"profile too long": {KindProfile, "/debug/pprof", "/profile/profile?seconds=121", echoPath, 400,
			`{"error":"\"121\" is not within 0 and 120","field":"seconds"}`, nil},
		"profile no number": {KindProfile, "/debug/pprof", "/profile/profile?seconds=NaN", echoPath, 400,
			`{"error":"\"NaN\" is not within 0 and 120","field":"seconds"}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			cl := serveTasks(t, taskWith(t, c.kind, c.at, c.h))
			code, header, body := do(t, cl, "GET", pathA+c.path, "")
			must.Eq(t, c.want, body)
			must.Eq(t, c.code, code)
			for k, v := range c.wantHeader {
				must.Eq(t, v, header.Get(k))
			}
		})
	}
}

func echoPath(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }

// Nothing of the operator's request reaches the task but what it asks for.
func TestOffer_Secrets(t *testing.T) {
	got := make(chan http.Header, 1)
	c := serveTasks(t, taskWith(t, KindMetrics, "/metrics", func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, "up 1\n")
		_ = z.Close()
	}))
	req, err := http.NewRequest(http.MethodGet, "http://localhost"+pathA+"/metrics", nil)
	must.NoError(t, err)
	for k, v := range map[string]string{"Authorization": "Bearer x", "Cookie": "a=b", "X-Y": "z", "Accept": "text/plain", "Accept-Encoding": "gzip"} {
		req.Header.Set(k, v)
	}
	resp, err := c.Do(req)
	must.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	z, err := gzip.NewReader(resp.Body)
	must.NoError(t, err)
	text, err := io.ReadAll(z)
	must.NoError(t, err)
	must.Eq(t, "up 1\n", string(text))
	header := <-got
	must.Eq(t, "text/plain", header.Get("Accept"))
	header.Del("User-Agent")
	header.Del("Accept")
	header.Del("Accept-Encoding")
	must.Eq(t, http.Header{"Connection": {"close"}}, header)
}

// An answer that is cut off, or has no end, does not look complete.
func TestOffer_Cut(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"by the task": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "short")
		},
		"at the limit": func(w http.ResponseWriter, _ *http.Request) {
			for chunk := strings.Repeat("x", 1<<20); ; {
				if _, err := io.WriteString(w, chunk); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := serveTasks(t, taskWith(t, KindMetrics, "/metrics", h))
			resp, err := c.Get("http://localhost" + pathA + "/metrics")
			must.NoError(t, err)
			defer func() { _ = resp.Body.Close() }()
			n, err := io.Copy(io.Discard, resp.Body)
			must.Error(t, err)
			must.LessEq(t, maxPassed, n)
		})
	}
}

func TestOffer_TLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(echoPath))
	t.Cleanup(srv.Close)
	c := serveTasks(t, &Task{App: newApp(allocA, "app"), Offers: []Offer{{Kind: KindHealth, Path: "/h", Scheme: "https", Dial: dialTo(srv)}}})
	code, body := get(t, c, pathA+"/health")
	must.Eq(t, "/h", body)
	must.Eq(t, 200, code)
}

func TestOffer_NoConnection(t *testing.T) {
	c := serveTasks(t, &Task{App: newApp(allocA, "app"), Offers: []Offer{{Kind: KindHealth, Path: "/h", Scheme: "http", Dial: func(context.Context) (net.Conn, error) {
		return nil, fmt.Errorf("connection refused")
	}}}})
	code, body := get(t, c, pathA+"/health")
	must.Eq(t, `{"error":"ask the task's health: connection refused"}`, body)
	must.Eq(t, 502, code)
}

// A task that accepts and does not answer costs its limit and no more.
func TestOffer_Hangs(t *testing.T) {
	for name, c := range map[string]struct{ path, limit string }{
		"health":  {"/health", "30s"},
		"profile": {"/profile/profile?seconds=60", "1m30s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dial := func(context.Context) (net.Conn, error) {
					ours, theirs := net.Pipe()
					go func() { _, _ = io.Copy(io.Discard, theirs) }()
					return ours, nil
				}
				task := &Task{App: newApp(allocA, "app"), Offers: []Offer{
					{Kind: KindHealth, Path: "/h", Scheme: "http", Dial: dial},
					{Kind: KindProfile, Path: "/p", Scheme: "http", Dial: dial},
				}}
				o := Options{}.withDefaults()
				r := NewRegistry()
				r.Add(task)
				u := newUpward(newServer(o.Logger), "x", r, prometheus.NewRegistry(), o.Now)
				w := httptest.NewRecorder()
				u.ServeHTTP(w, httptest.NewRequest(http.MethodGet, pathA+c.path, nil))
				must.Eq(t, 504, w.Code)
				must.StrContains(t, w.Body.String(), "did not answer within "+c.limit)
			})
		})
	}
}

func TestTasks_List(t *testing.T) {
	app := newApp(allocA, "app")
	app.info.Saves = true
	c := serveTasks(t,
		&Task{App: app, AllocDir: "/x", Offers: []Offer{{Kind: KindMetrics, Path: "/m", Scheme: "http"}}},
		&Task{App: newApp(allocB, "proxy")})
	code, body := get(t, c, "/v1/tasks")
	must.Eq(t, 200, code)
	must.StrContains(t, body, `"alloc_id":"`+allocA+`"`)
	must.StrContains(t, body, `"driver":"lifecycle-docker","state":"running"`)
	must.StrContains(t, body, `"links":{"events":"`+pathA+`/events","metrics":"`+pathA+`/metrics","save":"`+pathA+`/save","state":"`+pathA+`/state","stderr":"`+pathA+`/logs/stderr","stdout":"`+pathA+`/logs/stdout"}`)
	must.StrContains(t, body, `"links":{"events":"/v1/tasks/`+allocB+`/proxy/events","state":"/v1/tasks/`+allocB+`/proxy/state"}`)
	must.StrContains(t, body, `"drivers":[{"driver":"lifecycle-docker"}]`)

	code, body = get(t, c, "/v1/tasks/bbbbbbbb/proxy/state")
	must.Eq(t, 200, code)
	must.StrContains(t, body, allocB)
	code, _ = get(t, c, "/v1/tasks/cccccccc/proxy/state")
	must.Eq(t, 404, code)
	code, body = get(t, c, "/v1/health")
	must.Eq(t, 200, code)
	must.Eq(t, `{"ready":true,"drivers":[{"driver":"lifecycle-docker"}]}`, body)

	app.save = func(context.Context) (Checkpoint, error) { return Checkpoint{Version: "1/1", Bytes: 3}, nil }
	code, _, body = do(t, c, "POST", pathA+"/save", "")
	must.Eq(t, 200, code)
	must.StrContains(t, body, `"version":"1/1","bytes":3`)
	code, header, _ := do(t, c, "DELETE", pathA+"/save", "")
	must.Eq(t, 405, code)
	must.Eq(t, "POST", header.Get("Allow"))
}
