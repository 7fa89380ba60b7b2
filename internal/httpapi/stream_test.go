package httpapi

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// A client that does not read ends its handler's writes.
func TestSlowReader(t *testing.T) {
	ended := make(chan error, 1)
	r := start(t, Handler{Timeout: 50 * time.Millisecond}, map[string]http.HandlerFunc{
		"GET /x": func(w http.ResponseWriter, _ *http.Request) {
			s, err := OpenStream(w)
			for err == nil {
				err = s.Send("x", strings.Repeat("x", 1<<16))
			}
			ended <- err
		},
	})
	r.raw(t, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
	must.ErrorContains(t, <-ended, `send event "x": `)
}

// The deadlines of one request do not cut the next one on the same connection, and a
// stream may pause for longer than one.
func TestDeadlinesDoNotStay(t *testing.T) {
	const timeout = 50 * time.Millisecond
	var conns atomic.Int32
	proceed := make(chan struct{})
	r := start(t, Handler{Timeout: timeout}, map[string]http.HandlerFunc{
		"PUT /x": func(w http.ResponseWriter, _ *http.Request) { WriteJSON(w, 200, "x") },
		"GET /stream": func(w http.ResponseWriter, r *http.Request) {
			s, err := OpenStream(w)
			must.NoError(t, err)
			must.NoError(t, s.Send("first", 1))
			select {
			case <-proceed:
			case <-r.Context().Done():
				t.Error("the request ended in its pause")
			}
			must.NoError(t, s.Send("second", struct {
				A string `json:"a"`
			}{"b\nc"}))
		},
	})
	r.Client().Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conns.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	code, _, _ := r.do(t, "PUT", "/x", "{}")
	must.Eq(t, 200, code)
	// The pause is the thing under test, so it has to take time.
	time.Sleep(2 * timeout)
	code, _, _ = r.do(t, "PUT", "/x", "{}")
	must.Eq(t, 200, code)

	resp, err := r.Client().Get(r.URL + "/stream")
	must.NoError(t, err)
	must.Eq(t, "text/event-stream", resp.Header.Get("Content-Type"))
	lines := bufio.NewReader(resp.Body)
	read := func() string {
		event := ""
		for {
			line, err := lines.ReadString('\n')
			must.NoError(t, err)
			if line == "\n" {
				return event
			}
			event += line
		}
	}
	must.Eq(t, "id: 1\nevent: first\ndata: 1\n", read())
	time.Sleep(2 * timeout)
	close(proceed)
	must.Eq(t, "id: 2\nevent: second\ndata: {\"a\":\"b\\nc\"}\n", read())
	must.NoError(t, resp.Body.Close())
	must.Eq(t, 1, conns.Load())
}

// In HTTP/2 the deadline of a write would also end a stream in which nothing is being
// written.
func TestHTTP2StreamPauses(t *testing.T) {
	const timeout = 300 * time.Millisecond
	r := prepare(t, Handler{Timeout: timeout}, map[string]http.HandlerFunc{
		"GET /stream": func(w http.ResponseWriter, r *http.Request) {
			s, err := OpenStream(w)
			must.NoError(t, err)
			must.NoError(t, s.Send("first", 1))
			select {
			// The pause is the thing under test, so it has to take time.
			case <-time.After(2 * timeout):
			case <-r.Context().Done():
			}
			must.NoError(t, s.Send("second", 2))
		},
	})
	r.EnableHTTP2 = true
	r.StartTLS()
	resp, err := r.Client().Get(r.URL + "/stream")
	must.NoError(t, err)
	must.Eq(t, 2, resp.ProtoMajor)
	body, err := io.ReadAll(resp.Body)
	must.NoError(t, err)
	must.StrContains(t, string(body), "event: second\n")
	must.NoError(t, resp.Body.Close())
}

// The client must not take a broken answer for a complete one, and nobody else
// notices.
func TestPanicInStream(t *testing.T) {
	r := start(t, Handler{}, map[string]http.HandlerFunc{
		"GET /x": func(w http.ResponseWriter, _ *http.Request) {
			_, err := OpenStream(w)
			must.NoError(t, err)
			panic("oops")
		},
		"GET /y": func(w http.ResponseWriter, _ *http.Request) { WriteJSON(w, 200, "y") },
	})
	resp, err := r.Client().Get(r.URL + "/x")
	must.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	must.ErrorIs(t, err, io.ErrUnexpectedEOF)
	must.NoError(t, resp.Body.Close())
	code, _, _ := r.do(t, "GET", "/y", "")
	must.Eq(t, 200, code)
}

func TestStreamProblems(t *testing.T) {
	s, err := OpenStream(httptest.NewRecorder())
	must.NoError(t, err)
	must.ErrorContains(t, s.Send("a\nb", 1), "is not one line")
	must.ErrorContains(t, s.Send("a", make(chan int)), "unsupported type")
}

// Without IDs nothing is sent before the first event.
func TestNewStream(t *testing.T) {
	w := httptest.NewRecorder()
	s := NewStream(w)
	must.False(t, w.Flushed)
	must.NoError(t, s.Send("a", 1))
	must.True(t, w.Flushed)
	must.NoError(t, s.Comment())
	must.NoError(t, s.Send("b", 2))
	must.Eq(t, "event: a\ndata: 1\n\n:\n\nevent: b\ndata: 2\n\n", w.Body.String())
}
