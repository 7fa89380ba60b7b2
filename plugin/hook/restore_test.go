package hook

import (
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// closedPort is an address at which nothing listens any more.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	defer func() { must.NoError(t, l.Close()) }()
	return l.Addr().String()
}

// A restore is the first request that a process gets, so it is sent until the
// process listens. What it answers then is a matter of retries.
func TestRestore_UntilItListens(t *testing.T) {
	cases := map[string]struct {
		retries int
		codes   []int
		tries   int // after it listens
		want    string
	}{
		"takes it":              {0, []int{204}, 1, ""},
		"refuses it":            {0, []int{503, 204}, 1, "status 503"},
		"takes it the 2nd time": {1, []int{503, 204}, 2, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir := taskDir(t)
			r := &recorder{codes: tc.codes}
			h := mustNew(t, Restore, Spec{HTTP: &HTTPSpec{Socket: "app.sock"}, Retries: tc.retries, Interval: "10ms"})
			done := make(chan Outcome, 1)
			go func() {
				done <- run(t, t.Context(), h, Event{}, Target{Dial: &Dialer{TaskDir: dir}, Send: []byte("state")})
			}()
			time.Sleep(100 * time.Millisecond) // it is tried meanwhile, which nothing tells
			serveOn(t, listenUnix(t, filepath.Join(dir, "local", "app.sock")), r)
			o := <-done
			if tc.want == "" {
				must.NoError(t, o.Err)
			} else {
				must.ErrorContains(t, o.Err, tc.want)
			}
			must.Greater(t, tc.tries, o.Tries)
			must.Len(t, tc.tries, r.requests())
		})
	}
}

// One that never listens has the hook's time.
func TestRestore_NeverListens(t *testing.T) {
	for name, spec := range map[string]HTTPSpec{"port": {Port: "http"}, "socket": {Socket: "none.sock"}} {
		t.Run(name, func(t *testing.T) {
			target := Target{Dial: &Dialer{TaskDir: taskDir(t), Ports: map[string]Port{"http": {Host: closedPort(t)}}}}
			h := mustNew(t, Restore, Spec{HTTP: &spec, Timeout: "300ms", Interval: "10ms"})
			o := run(t, t.Context(), h, Event{}, target)
			must.ErrorContains(t, o.Err, "cut at its timeout of 300ms")
			must.Greater(t, 2, o.Tries)
		})
	}
}

// The end of the process ends the wait for it.
func TestRestore_ProcessEndsBefore(t *testing.T) {
	gone := make(chan struct{})
	target := Target{Dial: &Dialer{Ports: map[string]Port{"http": {Host: closedPort(t)}}}, Gone: gone}
	timer := time.AfterFunc(50*time.Millisecond, func() { close(gone) })
	defer timer.Stop()
	o := run(t, t.Context(), mustNew(t, Restore, Spec{HTTP: &HTTPSpec{Port: "http"}, Timeout: "1h"}), Event{}, target)
	must.ErrorIs(t, o.Err, ErrGone)
}

// Other hooks say with retries how often they are tried.
func TestRestore_OthersAreNotPolled(t *testing.T) {
	target := Target{Dial: &Dialer{Ports: map[string]Port{"http": {Host: closedPort(t)}}}}
	for _, kind := range []Kind{Poststart, Prestop, Save} {
		o := run(t, t.Context(), mustNew(t, kind, Spec{HTTP: &HTTPSpec{Port: "http", Method: http.MethodPost}}), Event{}, target)
		must.ErrorContains(t, o.Err, "refused")
		must.Eq(t, 1, o.Tries)
	}
}
