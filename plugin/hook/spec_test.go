package hook

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func web(edit func(*HTTPSpec)) Spec {
	c := &HTTPSpec{URL: "http://127.0.0.1/stop"}
	if edit != nil {
		edit(c)
	}
	return Spec{HTTP: c}
}

// local is an http action at the task's own port or socket.
func local(edit func(*HTTPSpec)) Spec {
	c := &HTTPSpec{Port: "http"}
	edit(c)
	return Spec{HTTP: c}
}

func with(s Spec, edit func(*Spec)) Spec { edit(&s); return s }

func manyHeaders(n int) map[string]string {
	m := make(map[string]string)
	for i := range n {
		m["X-"+strconv.Itoa(i)] = "1"
	}
	return m
}

// Every refused input, with the words that name its field and the remedy.
func TestNew_Refuses(t *testing.T) {
	sleep := Spec{Sleep: "1s"}
	cases := map[string]struct {
		kind Kind
		spec Spec
		want string
	}{
		"no action":           {Prestop, Spec{}, "lifecycle.prestop[3]: 0 actions; give exactly one of http, exec and sleep"},
		"two actions":         {Prestop, with(web(nil), func(s *Spec) { s.Sleep = "1s" }), "lifecycle.prestop[3]: 2 actions"},
		"three actions":       {Prestop, with(web(nil), func(s *Spec) { s.Sleep = "1s"; s.Exec = &ExecSpec{[]string{"a"}} }), ": 3 actions"},
		"sleep no duration":   {Prestop, Spec{Sleep: "soon"}, `lifecycle.prestop[3].sleep: "soon" is not a duration`},
		"sleep zero":          {Prestop, Spec{Sleep: "0s"}, "lifecycle.prestop[3].sleep: 0s is not within 0 and 1h0m0s"},
		"sleep negative":      {Prestop, Spec{Sleep: "-1s"}, ".sleep: -1s is not within"},
		"sleep too long":      {Prestop, Spec{Sleep: "61m"}, ".sleep: 1h1m0s is not within"},
		"sleep over timeout":  {Prestop, Spec{Sleep: "3s", Timeout: "2s"}, ".sleep: 3s is not shorter than the hook's timeout of 2s; leave timeout out"},
		"sleep is timeout":    {Prestop, Spec{Sleep: "2s", Timeout: "2s"}, ".sleep: 2s is not shorter"},
		"timeout bare number": {Prestop, with(sleep, func(s *Spec) { s.Timeout = "10" }), `.timeout: "10" is not a duration; write for example`},
		"timeout zero":        {Prestop, with(web(nil), func(s *Spec) { s.Timeout = "0s" }), ".timeout: 0s is not within"},
		"timeout negative":    {Prestop, with(web(nil), func(s *Spec) { s.Timeout = "-5s" }), ".timeout: -5s is not within"},
		"timeout too long":    {Prestop, with(web(nil), func(s *Spec) { s.Timeout = "2h" }), ".timeout: 2h0m0s is not within"},
		"interval bad":        {Ready, with(web(nil), func(s *Spec) { s.Interval = "x" }), `lifecycle.ready[3].interval: "x" is not a duration`},
		"interval too short":  {Ready, with(web(nil), func(s *Spec) { s.Interval = "9ms" }), ".interval: 9ms is shorter than 10ms"},
		"interval zero":       {Ready, with(web(nil), func(s *Spec) { s.Interval = "0s" }), ".interval: 0s is not within"},
		"retries negative":    {Prestop, with(web(nil), func(s *Spec) { s.Retries = -1 }), ".retries: -1 is not within 0 and 100"},
		"retries too many":    {Prestop, with(web(nil), func(s *Spec) { s.Retries = 101 }), ".retries: 101 is not within 0 and 100"},
		"retries of ready":    {Ready, with(web(nil), func(s *Spec) { s.Retries = 1 }), "lifecycle.ready[3].retries: a ready hook is tried again until its timeout"},
		"on_failure unknown":  {Poststart, with(web(nil), func(s *Spec) { s.OnFailure = "retry" }), `lifecycle.poststart[3].on_failure: "retry" is neither "ignore" nor "fail"`},
		"on_failure case":     {Poststart, with(web(nil), func(s *Spec) { s.OnFailure = "Fail" }), `.on_failure: "Fail" is neither`},
		"prestop can't fail":  {Prestop, with(web(nil), func(s *Spec) { s.OnFailure = Fail }), `lifecycle.prestop[3].on_failure: "fail" is not possible here`},
		"poststop can't fail": {Poststop, with(web(nil), func(s *Spec) { s.OnFailure = Fail }), `lifecycle.poststop[3].on_failure: "fail" is not possible here`},

		"no place":           {Prestop, Spec{HTTP: &HTTPSpec{}}, "lifecycle.prestop[3].http: 0 places; give exactly one of url, port and socket"},
		"two places":         {Prestop, web(func(c *HTTPSpec) { c.Port = "http" }), ".http: 2 places"},
		"url relative":       {Prestop, web(func(c *HTTPSpec) { c.URL = "/stop" }), `.http.url: "/stop" is not an absolute http or https URL`},
		"url no scheme":      {Prestop, web(func(c *HTTPSpec) { c.URL = "localhost:80/stop" }), ".http.url: "},
		"url no host":        {Prestop, web(func(c *HTTPSpec) { c.URL = "http:///stop" }), `.http.url: "http:///stop" is not an absolute`},
		"url bad scheme":     {Prestop, web(func(c *HTTPSpec) { c.URL = "file:///etc/passwd" }), `.http.url: "file:///etc/passwd" is not an absolute`},
		"url unix scheme":    {Prestop, web(func(c *HTTPSpec) { c.URL = "unix://docker.sock/x" }), ".http.url: "},
		"url unreadable":     {Prestop, web(func(c *HTTPSpec) { c.URL = "http://a b/%zz" }), `.http.url: "(unreadable URL)" is not a URL`},
		"url too long":       {Prestop, web(func(c *HTTPSpec) { c.URL += strings.Repeat("x", MaxURLSize) }), ".http: url, path or socket is longer than 4096 bytes"},
		"url and path":       {Prestop, web(func(c *HTTPSpec) { c.Path = "/x" }), ".http.path: belongs to port or socket; write it into url"},
		"network unknown":    {Prestop, web(func(c *HTTPSpec) { c.Network = "task" }), `.http.network: "task" is neither "host" nor "group"`},
		"network of port":    {Prestop, local(func(c *HTTPSpec) { c.Network = NetworkGroup }), ".http.network: belongs to url"},
		"path without slash": {Prestop, local(func(c *HTTPSpec) { c.Path = "stop" }), `.http.path: "stop" does not begin with a slash`},
		"path bad escape":    {Prestop, local(func(c *HTTPSpec) { c.Path = "/%zz" }), `.http.path: "/%zz" is not the path of a URL`},
		"path line break":    {Prestop, local(func(c *HTTPSpec) { c.Path = "/a\r\nX: y" }), ".http.path: "},
		"prestart port":      {Prestart, local(func(*HTTPSpec) {}), "lifecycle.prestart[3].http: the task does not run at prestart, so its port and socket do not answer; use url"},
		"poststop port":      {Poststop, local(func(*HTTPSpec) {}), "lifecycle.poststop[3].http: the task does not run at poststop"},
		"prestart socket":    {Prestart, Spec{HTTP: &HTTPSpec{Socket: "m.sock"}}, "lifecycle.prestart[3].http: the task does not run"},
		"poststop socket":    {Poststop, Spec{HTTP: &HTTPSpec{Socket: "m.sock"}}, "lifecycle.poststop[3].http: the task does not run"},
		"socket absolute":    {Prestop, Spec{HTTP: &HTTPSpec{Socket: "/var/run/docker.sock"}}, `.http.socket: "/var/run/docker.sock" leaves the task's local/ directory`},
		"socket dot dot":     {Prestop, Spec{HTTP: &HTTPSpec{Socket: "../secrets/api.sock"}}, `.http.socket: "../secrets/api.sock" leaves`},
		"socket hidden dots": {Prestop, Spec{HTTP: &HTTPSpec{Socket: "a/../../secrets/api.sock"}}, `.http.socket: "a/../../secrets/api.sock" leaves`},
		"socket is parent":   {Prestop, Spec{HTTP: &HTTPSpec{Socket: ".."}}, `.http.socket: ".." leaves`},
		"method unknown":     {Prestop, web(func(c *HTTPSpec) { c.Method = "CONNECT" }), `.http.method: "CONNECT" is none of GET, HEAD, POST, PUT, PATCH, DELETE`},
		"status too small":   {Prestop, web(func(c *HTTPSpec) { c.Status = []int{200, 99} }), ".http.valid_status_codes: 99 is not an HTTP status code"},
		"status too large":   {Prestop, web(func(c *HTTPSpec) { c.Status = []int{600} }), ".http.valid_status_codes: 600 is not"},
		"many headers":       {Prestop, web(func(c *HTTPSpec) { c.Headers = manyHeaders(33) }), ".http.headers: 33 headers; at most 32"},
		"large headers":      {Prestop, web(func(c *HTTPSpec) { c.Headers = map[string]string{"A": strings.Repeat("x", MaxHeaderSize)} }), ".http.headers: 8193 bytes; at most 8192"},
		"header value break": {Prestop, web(func(c *HTTPSpec) { c.Headers = map[string]string{"A": "b\r\nC: d"} }), `.http.headers: "A" is not a header name, or its value has a line break`},
		"header name break":  {Prestop, web(func(c *HTTPSpec) { c.Headers = map[string]string{"A\nB": "c"} }), ".http.headers: "},
		"header name colon":  {Prestop, web(func(c *HTTPSpec) { c.Headers = map[string]string{"A:": "c"} }), `.http.headers: "A:" is not a header name`},
		"header name empty":  {Prestop, web(func(c *HTTPSpec) { c.Headers = map[string]string{"": "c"} }), `.http.headers: "" is not a header name`},

		"command missing":     {Prestop, Spec{Exec: &ExecSpec{}}, "lifecycle.prestop[3].exec.command: empty; give the program and its arguments"},
		"command empty word":  {Prestop, Spec{Exec: &ExecSpec{[]string{"", "a"}}}, ".exec.command: empty"},
		"command many words":  {Prestop, Spec{Exec: &ExecSpec{make129()}}, ".exec.command: 129 words; at most 128"},
		"command many bytes":  {Prestop, Spec{Exec: &ExecSpec{[]string{"a", strings.Repeat("x", MaxCommandLen)}}}, ".exec.command: 65537 bytes; at most 65536"},
		"exec after the task": {Poststop, Spec{Exec: &ExecSpec{[]string{"a"}}}, "lifecycle.poststop[3].exec: the task has ended at poststop"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			h, err := New(tc.kind, 3, tc.spec)
			must.ErrorContains(t, err, tc.want)
			must.Nil(t, h)
		})
	}
}

func make129() []string {
	words := make([]string, MaxCommand+1)
	for i := range words {
		words[i] = "a"
	}
	return words
}

func TestNew_Defaults(t *testing.T) {
	cases := map[Kind]struct {
		method string
		fail   bool
	}{
		Prestart:  {http.MethodPost, true},
		Poststart: {http.MethodPost, true},
		Ready:     {http.MethodGet, true},
		Prestop:   {http.MethodPost, false},
		Poststop:  {http.MethodPost, false},

		GroupCreated:  {http.MethodPost, true},
		GroupRunning:  {http.MethodPost, false},
		GroupStopping: {http.MethodPost, false},
		GroupStopped:  {http.MethodPost, false},
	}
	must.Eq(t, len(cases), len(Kinds())+len(GroupKinds()))
	prefix := map[bool]string{false: "lifecycle.", true: "lifecycle.group."}
	for kind, tc := range cases {
		t.Run(string(kind), func(t *testing.T) {
			h := mustNew(t, kind, web(nil))
			must.Eq(t, 10*time.Second, h.Timeout)
			must.Eq(t, time.Second, h.Interval)
			must.Eq(t, 0, h.Retries)
			must.Eq(t, tc.fail, h.Fail)
			must.Eq(t, tc.method, h.HTTP.Method)
			must.Eq(t, NetworkHost, h.HTTP.Network)
			must.Eq(t, "http", h.Action())
			must.Eq(t, prefix[kind.group()]+string(kind)+"[0]", h.Field())

			ignored := mustNew(t, kind, with(web(nil), func(s *Spec) { s.OnFailure = Ignore }))
			must.False(t, ignored.Fail)
		})
	}
}

func TestNew_Accepts(t *testing.T) {
	cases := map[string]struct {
		kind  Kind
		spec  Spec
		check func(*testing.T, *Hook)
	}{
		"a sleep is its own timeout": {Prestop, Spec{Sleep: "20s"}, func(t *testing.T, h *Hook) {
			must.Eq(t, 20*time.Second, h.Sleep)
			must.Eq(t, 21*time.Second, h.Timeout)
			must.Eq(t, "sleep", h.Action())
		}},
		"the longest sleep": {Prestop, Spec{Sleep: "1h"}, func(t *testing.T, h *Hook) {
			must.Eq(t, MaxTimeout+time.Second, h.Timeout)
		}},
		"a path has a default": {Prestop, local(func(*HTTPSpec) {}), func(t *testing.T, h *Hook) {
			must.Eq(t, "/", h.HTTP.Path)
			must.Eq(t, "", h.HTTP.Network)
		}},
		"a path with a query": {Prestop, local(func(c *HTTPSpec) { c.Path = "/stop?why=me&x=%20" }), func(t *testing.T, h *Hook) {
			must.Eq(t, "/stop?why=me&x=%20", h.HTTP.Path)
		}},
		"a socket's path is cleaned": {Prestop, Spec{HTTP: &HTTPSpec{Socket: "./a//b/../m.sock"}}, func(t *testing.T, h *Hook) {
			must.Eq(t, "a/m.sock", h.HTTP.Socket)
		}},
		"a socket whose name begins with dots": {Prestop, Spec{HTTP: &HTTPSpec{Socket: "..m.sock"}}, func(t *testing.T, h *Hook) {
			must.Eq(t, "..m.sock", h.HTTP.Socket)
		}},
		"a method in lower case": {Prestop, web(func(c *HTTPSpec) { c.Method = "put" }), func(t *testing.T, h *Hook) {
			must.Eq(t, http.MethodPut, h.HTTP.Method)
		}},
		"a url without a path": {Prestart, web(func(c *HTTPSpec) { c.URL = "HTTPS://example.org" }), func(t *testing.T, h *Hook) {
			must.Eq(t, "HTTPS://example.org", h.HTTP.URL)
		}},
		"limits themselves": {Prestop, Spec{
			HTTP:    &HTTPSpec{URL: "http://a", Headers: manyHeaders(MaxHeaders), Status: []int{100, 599}},
			Retries: MaxRetries, Timeout: "1h", Interval: "10ms",
		}, func(t *testing.T, h *Hook) {
			must.Eq(t, MaxTimeout, h.Timeout)
			must.Eq(t, MaxRetries, h.Retries)
		}},
		"a command": {Prestart, Spec{Exec: &ExecSpec{[]string{"/bin/true", ""}}}, func(t *testing.T, h *Hook) {
			must.Eq(t, "exec", h.Action())
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) { tc.check(t, mustNew(t, tc.kind, tc.spec)) })
	}
}

// The caller's spec may be used again: New fills defaults into a copy.
func TestNew_LeavesSpecAlone(t *testing.T) {
	spec := web(nil)
	mustNew(t, Ready, spec)
	must.Eq(t, HTTPSpec{URL: "http://127.0.0.1/stop"}, *spec.HTTP)
}

func TestRedact(t *testing.T) {
	cases := map[string]struct{ raw, want string }{
		"nothing secret":  {"https://a.example/v1/x", "https://a.example/v1/x"},
		"password":        {"http://user:pw@a/x", "http://a/x"},
		"user only":       {"http://token@a/x", "http://a/x"},
		"query":           {"http://a/x?token=s", "http://a/x?…"},
		"fragment":        {"http://a/x#s", "http://a/x"},
		"unreadable":      {"http://user:pw@a/%zz", "(unreadable URL)"},
		"forgotten slash": {"http:user:pw@a/x", "http:…"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) { must.Eq(t, tc.want, Redact(tc.raw)) })
	}
}
