package hook

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// app is a target whose port "http" is answered by h, and whose answers to a
// save may have 8 bytes.
func app(t *testing.T, h http.Handler) Target {
	t.Helper()
	return Target{Dial: &Dialer{Ports: map[string]Port{"http": {Host: hostPort(serve(t, h).URL)}}}, Receive: 8}
}

// raw is a target that answers every request with text as it stands, and then
// closes the connection.
func raw(t *testing.T, text string) Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.Copy(io.Discard, req.Body) // the client may have gone
				_, _ = io.WriteString(conn, text)
			}
			_ = conn.Close() // likewise
		}
	}()
	t.Cleanup(func() { must.NoError(t, l.Close()); <-done })
	return Target{Dial: &Dialer{Ports: map[string]Port{"http": {Host: l.Addr().String()}}}, Receive: 8}
}

func saveHook(t *testing.T, edit func(*Spec)) *Hook {
	t.Helper()
	s := Spec{HTTP: &HTTPSpec{Port: "http", Path: "/state"}, Timeout: "5s", Interval: "10ms"}
	if edit != nil {
		edit(&s)
	}
	return mustNew(t, Save, s)
}

// A save is told why, and what it answers is taken whole.
func TestSave_Reply(t *testing.T) {
	cases := map[string]struct {
		code int
		body string
		want []byte // nil: there is no state
	}{
		"state":                  {200, "12345678", []byte("12345678")},
		"any byte":               {200, "\x00\xff\r\n", []byte("\x00\xff\r\n")},
		"empty state":            {200, "", []byte{}},
		"another success":        {203, "abc", []byte("abc")},
		"there is nothing to do": {204, "", nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := &recorder{codes: []int{tc.code}, reply: tc.body}
			o := run(t, t.Context(), saveHook(t, nil), Event{Task: "web"}.Stopping("drained", false, "why", mustTime(t)), app(t, r))
			must.NoError(t, o.Err)
			must.Eq(t, tc.want, o.Reply)
			must.Eq(t, tc.want == nil, o.Reply == nil)
			must.Eq(t, fmt.Sprint(tc.code), o.Detail)
			got := r.requests()[0]
			must.Eq(t, http.MethodPost, got.method)
			var ev Event
			must.NoError(t, json.Unmarshal([]byte(got.body), &ev))
			must.Eq(t, Save, ev.Event)
			must.Eq(t, "drained", ev.Reason)
		})
	}
}

// Half a checkpoint is none: whatever is wrong with an answer, nothing of it is
// taken.
func TestSave_Refuses(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\n"
	cases := map[string]struct{ answer, want string }{
		"too long":              {head + "Content-Length: 9\r\n\r\n123456789", "the answer is too large: 9 bytes; at most 8"},
		"chunks, too long":      {head + "Transfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n0\r\n\r\n", "the answer is too large: more than 8 bytes"},
		"no length":             {"HTTP/1.0 200 OK\r\n\r\n1234", "the answer says no length; send Content-Length, or chunks"},
		"ends early":            {head + "Content-Length: 8\r\n\r\n1234", "read the answer: unexpected EOF"},
		"chunks that end early": {head + "Transfer-Encoding: chunked\r\n\r\n4\r\n1234\r\n", "read the answer: unexpected EOF"},
		"bad status":            {"HTTP/1.1 500 Oh\r\nContent-Length: 8\r\n\r\nno space", "status 500: no space"},
		"redirect":              {"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "status 302"},
		"no HTTP":               {"hello\r\n\r\n", "malformed HTTP response"},
		"status no number":      {"HTTP/1.1 abc OK\r\n\r\n", "malformed HTTP status code"},
		"nothing":               {"", "EOF"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := run(t, t.Context(), saveHook(t, nil), Event{}, raw(t, tc.answer))
			must.ErrorContains(t, o.Err, "POST port http /state: ")
			must.ErrorContains(t, o.Err, tc.want)
			must.Nil(t, o.Reply)
		})
	}
}

// What is too large once is so again; all else may be better at the next try.
func TestSave_Tries(t *testing.T) {
	cases := map[string]struct {
		answer string
		tries  int
	}{
		"too large":  {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123456789", 1},
		"ends early": {"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n1234", 3},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := run(t, t.Context(), saveHook(t, func(s *Spec) { s.Retries = 2 }), Event{}, raw(t, tc.answer))
			must.Error(t, o.Err)
			must.Eq(t, tc.tries, o.Tries)
			if tc.tries == 1 {
				must.ErrorIs(t, o.Err, ErrTooLarge)
			}
		})
	}
}

// An app that begins an answer and never ends it costs the hook's time, and no
// more.
func TestSave_AnswerThatHangs(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "1234")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	o := run(t, t.Context(), saveHook(t, func(s *Spec) { s.Timeout = "300ms" }), Event{}, app(t, h))
	must.ErrorContains(t, o.Err, "cut at its timeout of 300ms")
	must.Nil(t, o.Reply)
}

// An app that compresses for whoever takes it is asked for its state plain: a
// length is needed, and unpacked there is none.
func TestSave_AppThatCompresses(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			_, _ = io.WriteString(w, "plain")
			return
		}
		var packed strings.Builder
		z := gzip.NewWriter(&packed)
		_, _ = io.WriteString(z, "packed")
		_ = z.Close()
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Length", fmt.Sprint(packed.Len()))
		_, _ = io.WriteString(w, packed.String())
	})
	o := run(t, t.Context(), saveHook(t, nil), Event{}, app(t, h))
	must.NoError(t, o.Err)
	must.Eq(t, "plain", string(o.Reply))
}

// Only a save takes an answer.
func TestReply_OnlyOfSaves(t *testing.T) {
	target := app(t, &recorder{reply: "more than eight bytes"})
	for _, kind := range []Kind{Ready, Prestop, Restore} {
		o := run(t, t.Context(), mustNew(t, kind, Spec{HTTP: &HTTPSpec{Port: "http"}}), Event{}, target)
		must.NoError(t, o.Err)
		must.Nil(t, o.Reply)
	}
}

// The body of a restore is the checkpoint, at every try. What the event says is
// in headers.
func TestRestore_Request(t *testing.T) {
	for name, state := range map[string]string{"state": "\x00state\xff", "empty state": ""} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{codes: []int{503, 200}}
			target := app(t, r)
			target.Send = []byte(state)
			h := mustNew(t, Restore, Spec{HTTP: &HTTPSpec{Port: "http", Path: "/state"}, Retries: 1, Interval: "10ms"})
			must.NoError(t, run(t, t.Context(), h, Event{Task: "web"}, target).Err)
			must.Len(t, 2, r.requests())
			for _, got := range r.requests() {
				must.Eq(t, http.MethodPut, got.method)
				must.Eq(t, state, got.body)
				must.Eq(t, fmt.Sprint(len(state)), got.header.Get("Content-Length"))
				must.Eq(t, "application/octet-stream", got.header.Get("Content-Type"))
				must.Eq(t, "restore", got.header.Get("Lifecycle-Event"))
			}
		})
	}
}

// What the two halves of a checkpoint may not be.
func TestData_Refuses(t *testing.T) {
	cases := map[string]struct {
		kind Kind
		spec Spec
		want string
	}{
		"save, url":          {Save, web(nil), "lifecycle.checkpoint.save.http.url: a checkpoint is the task's own; use port or socket"},
		"restore, url":       {Restore, web(nil), "lifecycle.checkpoint.restore.http.url: a checkpoint is the task's own"},
		"save, sleep":        {Save, Spec{Sleep: "1s"}, "lifecycle.checkpoint.save.sleep: moves no data; use http or exec"},
		"restore, sleep":     {Restore, Spec{Sleep: "1s"}, "lifecycle.checkpoint.restore.sleep: moves no data"},
		"save fails a stop":  {Save, local(func(*HTTPSpec) {}).failing(), `lifecycle.checkpoint.save.on_failure: a failed save never prevents a stop`},
		"save by HEAD":       {Save, local(func(c *HTTPSpec) { c.Method = "HEAD" }), "lifecycle.checkpoint.save.http.method: "},
		"restore by HEAD":    {Restore, local(func(c *HTTPSpec) { c.Method = "head" }), "lifecycle.checkpoint.restore.http.method: "},
		"restore by GET":     {Restore, local(func(c *HTTPSpec) { c.Method = "GET" }), "lifecycle.checkpoint.restore.http.method: "},
		"save, no action":    {Save, Spec{}, "lifecycle.checkpoint.save: 0 actions"},
		"restore, no action": {Restore, Spec{}, "lifecycle.checkpoint.restore: 0 actions"},
		"save, parent dir":   {Save, Spec{HTTP: &HTTPSpec{Socket: "../a"}}, "lifecycle.checkpoint.save.http.socket"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := New(tc.kind, 0, tc.spec)
			must.ErrorContains(t, err, tc.want)
		})
	}
}

func TestData_Defaults(t *testing.T) {
	place := Spec{HTTP: &HTTPSpec{Port: "http", Path: "/state"}}
	save, restore := mustNew(t, Save, place), mustNew(t, Restore, place)
	must.Eq(t, http.MethodPost, save.HTTP.Method)
	must.False(t, save.Fail)
	must.Eq(t, http.MethodPut, restore.HTTP.Method)
	must.True(t, restore.Fail)
	must.Eq(t, http.MethodGet, mustNew(t, Save, local(func(c *HTTPSpec) { c.Method = "get" })).HTTP.Method)
	for _, h := range []*Hook{save, restore} {
		must.Eq(t, defaultTimeout, h.Timeout)
	}
}
