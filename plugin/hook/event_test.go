package hook

import (
	"encoding/json"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func (s Spec) failing() Spec { s.OnFailure = Fail; return s }

func mustTime(t *testing.T) time.Time {
	t.Helper()
	return time.Now().Add(time.Minute)
}

// A hook of the stop is told why, whether for good, and how long the process
// has; all of it in the body, and what matters most in headers.
func TestEvent_OfAStop(t *testing.T) {
	r := &recorder{}
	h := mustNew(t, Prestop, Spec{HTTP: &HTTPSpec{URL: serve(t, r).URL}, Timeout: "20s"})
	ev := Event{Task: "web"}.Stopping("preempted", true, "Preempted by alloc ID 1", time.Now().Add(time.Minute))
	must.NoError(t, run(t, t.Context(), h, ev, dialer()).Err)

	got := r.requests()[0]
	var told Event
	must.NoError(t, json.Unmarshal([]byte(got.body), &told))
	must.Eq(t, Prestop, told.Event)
	must.Eq(t, "preempted", told.Reason)
	must.True(t, told.Final)
	must.Eq(t, "Preempted by alloc ID 1", told.Detail)
	must.Between(t, 15_000, told.RemainingMS, 20_000)
	must.Between(t, 50_000, told.KillMS, 60_000)

	must.Eq(t, "prestop", got.header.Get("Lifecycle-Event"))
	must.Eq(t, "preempted", got.header.Get("Lifecycle-Reason"))
	must.Eq(t, "true", got.header.Get("Lifecycle-Final"))
	must.Eq(t, strconv.FormatInt(told.RemainingMS, 10), got.header.Get("Lifecycle-Remaining-Ms"))
	deadline, err := time.Parse(time.RFC3339Nano, got.header.Get("Lifecycle-Deadline"))
	must.NoError(t, err)
	must.True(t, deadline.Equal(told.Deadline))
}

// A hook that is not one of a stop says nothing of one.
func TestEvent_OfAStart(t *testing.T) {
	r := &recorder{}
	h := mustNew(t, Poststart, web(func(c *HTTPSpec) { c.URL = serve(t, r).URL }))
	must.NoError(t, run(t, t.Context(), h, Event{}, dialer()).Err)
	got := r.requests()[0]
	var body map[string]any
	must.NoError(t, json.Unmarshal([]byte(got.body), &body))
	for _, key := range []string{"reason", "final", "detail", "kill_ms"} {
		must.MapNotContainsKey(t, body, key)
	}
	must.Eq(t, "", got.header.Get("Lifecycle-Reason"))
	must.Eq(t, "", got.header.Get("Lifecycle-Final"))
}

// A request without a body has the same in its headers, and a job's own headers
// come before them.
func TestEvent_WithoutABody(t *testing.T) {
	r := &recorder{}
	h := mustNew(t, Prestop, web(func(c *HTTPSpec) {
		c.URL, c.Method = serve(t, r).URL, "GET"
		c.Headers = map[string]string{"lifecycle-event": "mine"}
	}))
	must.NoError(t, run(t, t.Context(), h, Event{}.Stopping("drained", false, "", time.Now().Add(time.Second)), dialer()).Err)
	got := r.requests()[0]
	must.Eq(t, "", got.body)
	must.Eq(t, []string{"mine"}, got.header["Lifecycle-Event"])
	must.Eq(t, "drained", got.header.Get("Lifecycle-Reason"))
	must.Eq(t, "false", got.header.Get("Lifecycle-Final"))
}

// The times are those of each try. One that is over is told as one millisecond,
// since 0 would be left out as unknown.
func TestEvent_TimesOfEachTry(t *testing.T) {
	r := &recorder{codes: []int{500, 200}}
	h := mustNew(t, Prestop, Spec{HTTP: &HTTPSpec{URL: serve(t, r).URL}, Retries: 1, Interval: "50ms", Timeout: "20s"})
	must.NoError(t, run(t, t.Context(), h, Event{}.Stopping("drained", false, "", time.Now().Add(-time.Hour)), dialer()).Err)
	var first, second Event
	must.NoError(t, json.Unmarshal([]byte(r.requests()[0].body), &first))
	must.NoError(t, json.Unmarshal([]byte(r.requests()[1].body), &second))
	must.LessEq(t, first.RemainingMS-50, second.RemainingMS)
	must.True(t, first.Deadline.Equal(second.Deadline))
	must.Eq(t, 1, first.KillMS)
}

// Hooks of the group are run by whichever plugin process is there, so they may
// need nothing of one task.
func TestGroup_Refuses(t *testing.T) {
	for _, kind := range GroupKinds() {
		cases := map[string]struct {
			spec Spec
			want string
		}{
			"exec":   {Spec{Exec: &ExecSpec{[]string{"a"}}}, ".exec: belongs to one task; use http for a hook of the group"},
			"socket": {Spec{HTTP: &HTTPSpec{Socket: "a.sock"}}, ".http.socket: belongs to one task; use port or url for a hook of the group"},
			"none":   {Spec{}, ": 0 actions"},
		}
		for name, tc := range cases {
			t.Run(string(kind)+" "+name, func(t *testing.T) {
				_, err := New(kind, 2, tc.spec)
				must.ErrorContains(t, err, "lifecycle.group."+string(kind)+"[2]"+tc.want)
			})
		}
	}
}

// A port answers only while something runs, and only a hook before that can fail
// the allocation.
func TestGroup_ByTime(t *testing.T) {
	port := local(func(*HTTPSpec) {})
	cases := map[Kind]struct{ port, fail string }{
		GroupCreated:  {"lifecycle.group.created[0].http: the task does not run at created", ""},
		GroupRunning:  {"", `lifecycle.group.running[0].on_failure: "fail" is not possible here`},
		GroupStopping: {"", `lifecycle.group.stopping[0].on_failure`},
		GroupStopped:  {"lifecycle.group.stopped[0].http: the task does not run at stopped", `lifecycle.group.stopped[0].on_failure`},
	}
	for kind, tc := range cases {
		t.Run(string(kind), func(t *testing.T) {
			for want, spec := range map[string]Spec{tc.port: port, tc.fail: web(nil).failing()} {
				_, err := New(kind, 0, spec)
				if want == "" {
					must.NoError(t, err)
				} else {
					must.ErrorContains(t, err, want)
				}
			}
		})
	}
}

// Operators reach a task's own places by the same way as hooks.
func TestDialer_Dial(t *testing.T) {
	dir := taskDir(t)
	r := &recorder{}
	serveOn(t, listenUnix(t, dir+"/local/app.sock"), r)
	server := serve(t, r)
	d := &Dialer{TaskDir: dir, Ports: map[string]Port{"http": {Host: hostPort(server.URL)}}}
	for name, c := range map[string]*HTTPSpec{"port": {Port: "http"}, "socket": {Socket: "app.sock"}} {
		t.Run(name, func(t *testing.T) {
			conn, err := d.Dial(t.Context(), c)
			must.NoError(t, err)
			defer func() { must.NoError(t, conn.Close()) }()
			req, err := http.NewRequest(http.MethodGet, "http://localhost/"+name, nil)
			must.NoError(t, err)
			must.NoError(t, req.Write(conn))
			buf := make([]byte, 15)
			_, err = conn.Read(buf)
			must.NoError(t, err)
			must.Eq(t, "HTTP/1.1 200 OK", string(buf))
		})
	}
	_, err := d.Dial(t.Context(), &HTTPSpec{Port: "web"})
	must.ErrorContains(t, err, `no port labelled "web"`)
}
