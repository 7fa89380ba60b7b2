package manage

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

func TestServe_Answers(t *testing.T) {
	saved := time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)
	able := func(a *fakeApp) {
		a.info.Saves, a.info.Replicate = true, &Bounds{Min: 1, Max: 5}
		a.save = func(context.Context) (Checkpoint, error) { return Checkpoint{"7/3", 12, saved}, nil }
		a.replicate = func(_ context.Context, delta int64) (Scaled, error) { return Scaled{3 + delta, 3, "e1"}, nil }
	}
	saveFails := func(err error) func(*fakeApp) {
		return func(a *fakeApp) {
			able(a)
			a.save = func(context.Context) (Checkpoint, error) { return Checkpoint{}, err }
		}
	}
	replicateFails := func(err error) func(*fakeApp) {
		return func(a *fakeApp) {
			able(a)
			a.replicate = func(context.Context, int64) (Scaled, error) { return Scaled{}, err }
		}
	}
	for name, c := range map[string]struct {
		app                func(*fakeApp)
		method, path, body string
		code               int
		want               string
		header             map[string]string
	}{
		"save":              {able, "POST", "/v1/save", "", 200, `{"version":"7/3","bytes":12,"saved":"2026-03-01T12:00:00.000000005Z"}`, nil},
		"save with object":  {able, "POST", "/v1/save", " {} ", 200, `{"version":"7/3","bytes":12,"saved":"2026-03-01T12:00:00.000000005Z"}`, nil},
		"save unknown":      {able, "POST", "/v1/save", `{"now":true}`, 400, `{"error":"unknown field","field":"now"}`, nil},
		"save not possible": {nil, "POST", "/v1/save", "", 409, `{"error":"` + noCheckpoint + `"}`, nil},
		"save fails":        {saveFails(errors.New("store is away")), "POST", "/v1/save", "", 502, `{"error":"store is away"}`, nil},
		"save too slow":     {saveFails(fmt.Errorf("put: %w", context.DeadlineExceeded)), "POST", "/v1/save", "", 504, `{"error":"not done in time: put: context deadline exceeded"}`, nil},
		"save refused":      {saveFails(fmt.Errorf("x: %w", httpapi.Errorf(503, "", "it is stopping"))), "POST", "/v1/save", "", 503, `{"error":"it is stopping"}`, nil},

		"replicate":               {able, "POST", "/v1/replicate", `{"delta":2}`, 200, `{"count":5,"previous":3,"eval_id":"e1"}`, nil},
		"replicate fewer":         {able, "POST", "/v1/replicate", `{"delta":-1}`, 200, `{"count":2,"previous":3,"eval_id":"e1"}`, nil},
		"replicate zero":          {able, "POST", "/v1/replicate", `{"delta":0}`, 400, `{"error":"say by how many the group is to grow, for example 1, or to shrink, for example -1","field":"delta"}`, nil},
		"replicate nothing":       {able, "POST", "/v1/replicate", `{}`, 400, `{"error":"say by how many the group is to grow, for example 1, or to shrink, for example -1","field":"delta"}`, nil},
		"replicate empty":         {able, "POST", "/v1/replicate", ``, 400, `{"error":"the body is empty; a JSON value is expected"}`, nil},
		"replicate fraction":      {able, "POST", "/v1/replicate", `{"delta":1.5}`, 400, `{"error":"is a JSON number 1.5, which cannot be a int64","field":"delta"}`, nil},
		"replicate not permitted": {nil, "POST", "/v1/replicate", `{"delta":1}`, 403, `{"error":"` + noReplicate + `"}`, nil},
		"replicate blocked":       {replicateFails(httpapi.Errorf(503, "", "a deployment runs").After(1500 * time.Millisecond)), "POST", "/v1/replicate", `{"delta":1}`, 503, `{"error":"a deployment runs"}`, map[string]string{"Retry-After": "2"}},
		"replicate bounds":        {replicateFails(httpapi.Errorf(409, "delta", "enough")), "POST", "/v1/replicate", `{"delta":1}`, 409, `{"error":"enough","field":"delta"}`, nil},

		"too large":    {able, "POST", "/v1/replicate", strings.Repeat(" ", maxBody+1), 413, `{"error":"the body is larger than 65536 bytes"}`, nil},
		"post a get":   {able, "POST", "/v1/state", "", 405, `{"error":"POST is not possible on /v1/state, but GET"}`, map[string]string{"Allow": "GET"}},
		"no such path": {able, "GET", "/v1/nothing", "", 404, `{"error":"there is no /v1/nothing"}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			app := newApp(allocA, "app")
			if c.app != nil {
				c.app(app)
			}
			code, header, body := do(t, serveApp(t, app, Options{}), c.method, c.path, c.body)
			must.Eq(t, c.want, body)
			must.Eq(t, c.code, code)
			must.Eq(t, "application/json", header.Get("Content-Type"))
			for k, v := range c.header {
				must.Eq(t, v, header.Get(k))
			}
		})
	}
}

func TestServe_State(t *testing.T) {
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := begin
	app := newApp(allocA, "app")
	app.machine = lifecycle.New(lifecycle.Running, func() time.Time { return begin }, nil)
	c := serveApp(t, app, Options{Now: func() time.Time { return now }})
	const who = `{"namespace":"default","job":"shop","group":"web","task":"app","alloc_id":"` + allocA + `","index":2,`
	state := func() string {
		code, body := get(t, c, "/v1/state")
		must.Eq(t, 200, code)
		return body
	}
	must.Eq(t, who+`"state":"running","since":"2026-03-01T12:00:00Z","soon":false,"final":false}`, state())

	must.True(t, app.machine.Announce(lifecycle.Stop{Reason: "drained", Detail: "by ops"}))
	must.Eq(t, who+`"state":"running","since":"2026-03-01T12:00:00Z","soon":true,"reason":"drained","final":false,"detail":"by ops"}`, state())

	stop := &lifecycle.Stop{Reason: "stopped", Final: true, Deadline: begin.Add(20 * time.Second)}
	must.True(t, app.machine.To(lifecycle.Stopping, stop))
	app.mu.Lock()
	app.last = &Checkpoint{"7/3", 12, begin}
	app.mu.Unlock()
	now = begin.Add(1500 * time.Millisecond)
	must.Eq(t, who+`"state":"stopping","since":"2026-03-01T12:00:00Z","soon":false,"reason":"stopped","final":true,`+
		`"deadline":"2026-03-01T12:00:20Z","remaining_ms":18500,"checkpoint":{"version":"7/3","bytes":12,"saved":"2026-03-01T12:00:00Z"}}`, state())
	now = begin.Add(time.Minute)
	must.StrContains(t, state(), `"remaining_ms":0,`)
}

func TestServe_Index(t *testing.T) {
	app := newApp(allocA, "app")
	app.info.Replicate = &Bounds{Min: 1, Max: 5}
	code, body := get(t, serveApp(t, app, Options{}), "/v1/")
	must.Eq(t, 200, code)
	must.StrContains(t, body, `"path":"/v1/state"`)
	must.StrContains(t, body, `"path":"/v1/events"`)
	must.StrContains(t, body, `"path":"/v1/save","does":"save a checkpoint now","refused":"`+noCheckpoint+`"`)
	must.StrContains(t, body, `"min":1,"max":5}`)
}

// A HEAD of a stream would not end.
func TestServe_Head(t *testing.T) {
	c := serveApp(t, newApp(allocA, "app"), Options{})
	code, header, _ := do(t, c, http.MethodHead, "/v1/events", "")
	must.Eq(t, 405, code)
	must.Eq(t, "GET, POST", header.Get("Allow"))
}

// A handler that panics is answered for, and nobody else notices.
func TestServe_Panic(t *testing.T) {
	app := newApp(allocA, "app")
	app.info.Saves = true
	app.save = func(context.Context) (Checkpoint, error) { panic("secret") }
	c := serveApp(t, app, Options{})
	code, _, body := do(t, c, "POST", "/v1/save", "")
	must.Eq(t, 500, code)
	must.Eq(t, `{"error":"internal error; the log of the Nomad agent has the details"}`, body)
	code, _ = get(t, c, "/v1/state")
	must.Eq(t, 200, code)
}

// A client that goes away ends what it has asked for.
func TestServe_ClientLeaves(t *testing.T) {
	app := newApp(allocA, "app")
	app.info.Saves = true
	begun, ended := make(chan struct{}), make(chan error, 1)
	app.save = func(ctx context.Context) (Checkpoint, error) {
		close(begun)
		<-ctx.Done()
		ended <- ctx.Err()
		return Checkpoint{}, ctx.Err()
	}
	c := serveApp(t, app, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/v1/save", strings.NewReader("{}"))
	must.NoError(t, err)
	go func() {
		<-begun
		cancel()
	}()
	_, err = c.Do(req)
	must.ErrorIs(t, err, context.Canceled)
	must.ErrorIs(t, <-ended, context.Canceled)
}

// The end of the server ends requests, and does not wait for those that do not
// end.
func TestServe_End(t *testing.T) {
	app := newApp(allocA, "app")
	app.info.Saves = true
	begun := make(chan struct{})
	app.save = func(ctx context.Context) (Checkpoint, error) {
		close(begun)
		<-ctx.Done()
		return Checkpoint{}, httpapi.Errorf(503, "", "the plugin ends")
	}
	dir := t.TempDir()
	ln, err := Listen(dir, Owner{})
	must.NoError(t, err)
	stop := background(t, func(ctx context.Context) error { return Serve(ctx, ln, app, Options{}) })
	go func() {
		<-begun
		stop()
	}()
	code, _, body := do(t, atSocket(dir+"/"+SocketName), "POST", "/v1/save", "")
	must.Eq(t, 503, code)
	must.Eq(t, `{"error":"the plugin ends"}`, body)
}

func TestServe_ListenerFails(t *testing.T) {
	ln := newPipes()
	must.NoError(t, ln.Close())
	err := Serve(context.Background(), ln, newApp(allocA, "app"), Options{})
	must.ErrorContains(t, err, "serve: ")
}
