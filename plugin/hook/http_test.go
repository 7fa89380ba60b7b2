package hook

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// hostPort is the address of a test server without its scheme.
func hostPort(u string) string { return strings.TrimPrefix(u, "http://") }

func TestHTTP_Request(t *testing.T) {
	ev := Event{Namespace: "prod", Job: "shop", Group: "front", Task: "web", AllocID: "0f1e"}
	r := &recorder{}
	h := mustNew(t, Prestop, Spec{HTTP: &HTTPSpec{
		URL:     serve(t, r).URL + "/lifecycle/stop?a=b",
		Headers: map[string]string{"X-Token": "t0", "host": "shop.internal", "content-type": "application/x-own"},
	}})
	must.NoError(t, run(t, t.Context(), h, ev, dialer()).Err)

	must.Len(t, 1, r.requests())
	got := r.requests()[0]
	must.Eq(t, http.MethodPost, got.method)
	must.Eq(t, "/lifecycle/stop", got.path)
	must.Eq(t, "a=b", got.query)
	must.Eq(t, "shop.internal", got.host)
	must.Eq(t, "t0", got.header.Get("X-Token"))
	must.Eq(t, "application/x-own", got.header.Get("Content-Type"))

	var body map[string]any
	must.NoError(t, json.Unmarshal([]byte(got.body), &body))
	deadline, err := time.Parse(time.RFC3339Nano, fmt.Sprint(body["deadline"]))
	must.NoError(t, err)
	must.True(t, deadline.After(time.Now()))
	remaining, ok := body["remaining_ms"].(float64)
	must.True(t, ok)
	must.Between(t, 1, remaining, 10_000)
	delete(body, "deadline")
	delete(body, "remaining_ms")
	must.Eq(t, map[string]any{
		"event": "prestop", "attempt": float64(1), "namespace": "prod", "job": "shop",
		"group": "front", "task": "web", "alloc_id": "0f1e",
	}, body)
}

func TestHTTP_BodyByMethod(t *testing.T) {
	for method, want := range map[string]bool{
		"GET": false, "HEAD": false, "POST": true, "PUT": true, "PATCH": true, "DELETE": true,
	} {
		t.Run(method, func(t *testing.T) {
			r := &recorder{}
			s := web(func(c *HTTPSpec) { c.URL, c.Method = serve(t, r).URL, method })
			must.NoError(t, run(t, t.Context(), mustNew(t, Prestop, s), Event{}, dialer()).Err)
			got := r.requests()[0]
			must.Eq(t, method, got.method)
			must.Eq(t, want, got.body != "")
			must.Eq(t, want, got.header.Get("Content-Type") == "application/json")
		})
	}
}

func TestHTTP_StatusCodes(t *testing.T) {
	cases := map[string]struct {
		valid []int
		code  int
		ok    bool
	}{
		"default takes 200":           {nil, 200, true},
		"default takes 299":           {nil, 299, true},
		"default refuses 300":         {nil, 300, false},
		"default refuses 404":         {nil, 404, false},
		"a list takes what it names":  {[]int{404, 410}, 410, true},
		"a list refuses 200 as well":  {[]int{404, 410}, 200, false},
		"a redirect may be a success": {[]int{302}, 302, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := &recorder{codes: []int{tc.code}}
			s := web(func(c *HTTPSpec) { c.URL, c.Status = serve(t, r).URL, tc.valid })
			o := run(t, t.Context(), mustNew(t, Prestop, s), Event{}, dialer())
			if tc.ok {
				must.NoError(t, o.Err)
				must.Eq(t, fmt.Sprint(tc.code), o.Detail)
			} else {
				must.ErrorContains(t, o.Err, fmt.Sprintf("status %d", tc.code))
			}
		})
	}
}

// A hook talks to the place that it names and to no other.
func TestHTTP_RedirectIsNotFollowed(t *testing.T) {
	other := &recorder{}
	elsewhere := serve(t, other).URL
	from := serve(t, http.RedirectHandler(elsewhere, http.StatusTemporaryRedirect))
	s := web(func(c *HTTPSpec) { c.URL = from.URL })
	o := run(t, t.Context(), mustNew(t, Prestop, s), Event{}, dialer())
	must.ErrorContains(t, o.Err, "status 307")
	must.SliceEmpty(t, other.requests())
}

// Proxies are the plugin's surroundings, not the job's. Loopback addresses are
// never sent through one, so the request goes to a name, one that is reserved
// for never being found (RFC 6761).
func TestHTTP_ProxyFromEnvironmentIsIgnored(t *testing.T) {
	s := with(web(func(c *HTTPSpec) { c.URL = "http://hook.invalid/stop" }), func(s *Spec) { s.Timeout = "5s" })
	o := run(t, t.Context(), mustNew(t, Prestop, s), Event{}, dialer())
	must.Error(t, o.Err)
	must.StrNotContains(t, o.Err.Error(), "proxyconnect")
}

// The task's own words help its author. Another host's are not shown: a hook
// must not become a way to read it.
func TestHTTP_ReplyIsShownOnlyOfTheTask(t *testing.T) {
	const reply = "database\nis read-only\x1b[31m"
	dir := taskDir(t)
	serveOn(t, listenUnix(t, dir+"/local/m.sock"), &recorder{codes: []int{500}, reply: reply})
	server := serve(t, &recorder{codes: []int{500}, reply: reply})
	target := Target{Dial: &Dialer{TaskDir: dir, Ports: map[string]Port{"http": {Host: hostPort(server.URL)}}}}
	cases := map[string]struct {
		spec  HTTPSpec
		shown bool
	}{
		"port":   {HTTPSpec{Port: "http", Path: "/stop"}, true},
		"socket": {HTTPSpec{Socket: "m.sock", Path: "/stop"}, true},
		"url":    {HTTPSpec{URL: server.URL + "/stop"}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := run(t, t.Context(), mustNew(t, Prestop, Spec{HTTP: &tc.spec}), Event{}, target)
			must.ErrorContains(t, o.Err, "status 500")
			must.Eq(t, tc.shown, strings.Contains(o.Err.Error(), "database is read-only"))
			must.StrNotContains(t, o.Err.Error(), "\x1b")
		})
	}
}

// No error holds a password, a token or a query, whatever goes wrong.
func TestHTTP_ErrorsHoldNoSecret(t *testing.T) {
	failing := hostPort(serve(t, &recorder{codes: []int{500}, reply: "s3cret"}).URL)
	hanging := hostPort(serve(t, hang()).URL)
	closed := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must.NoError(t, err)
		defer func() { must.NoError(t, l.Close()) }()
		return l.Addr().String()
	}()
	ports := map[string]Port{"failing": {Host: failing}, "closed": {Host: closed}}
	cases := map[string]HTTPSpec{
		"status":             {URL: "http://user:s3cret@" + failing + "/x?token=s3cret"},
		"refused":            {URL: "http://user:s3cret@" + closed + "/x?token=s3cret"},
		"cut":                {URL: "http://user:s3cret@" + hanging + "/x?token=s3cret"},
		"no such host":       {URL: "http://user:s3cret@hook.invalid/x?token=s3cret"},
		"no https":           {URL: "https://user:s3cret@" + failing + "/x?token=s3cret"},
		"header":             {URL: "http://" + failing, Headers: map[string]string{"Authorization": "Bearer s3cret"}},
		"header not sent":    {URL: "http://" + failing, Headers: map[string]string{"Authorization": "s3cret\x00"}},
		"port, query":        {Port: "closed", Path: "/x?token=s3cret"},
		"port, query, code":  {Port: "failing", Path: "/x?token=s3cret", Method: "HEAD"},
		"socket, no such":    {Socket: "none.sock", Path: "/x?token=s3cret"},
		"not among the URLs": {URL: "http://user:s3cret@" + failing + "/other?token=s3cret"},
	}
	for name, spec := range cases {
		t.Run(name, func(t *testing.T) {
			target := Target{Dial: &Dialer{TaskDir: taskDir(t), Ports: ports}}
			if name == "not among the URLs" {
				target.Dial.AllowURLs = []string{"http://example.org"}
			}
			h := mustNew(t, Prestop, Spec{HTTP: &spec, Timeout: "2s"})
			o := run(t, t.Context(), h, Event{}, target)
			must.Error(t, o.Err)
			must.StrNotContains(t, o.Err.Error(), "s3cret")
		})
	}
}

func TestHTTP_PortOnTheHost(t *testing.T) {
	r := &recorder{}
	server := serve(t, r)
	ports := map[string]Port{"http": {Host: hostPort(server.URL), To: 8080}, "admin": {Host: "127.0.0.1:1"}}
	// To is not used without a network namespace.
	target := Target{Dial: &Dialer{Ports: ports}}
	h := mustNew(t, Ready, Spec{HTTP: &HTTPSpec{Port: "http", Path: "/ready?full=1"}})
	must.NoError(t, run(t, t.Context(), h, Event{}, target).Err)
	got := r.requests()[0]
	must.Eq(t, "/ready", got.path)
	must.Eq(t, "full=1", got.query)
	must.Eq(t, hostPort(server.URL), got.host)
}
