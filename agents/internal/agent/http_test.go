package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
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

func TestAnswers(t *testing.T) {
	type body struct {
		Name string `json:"name"`
		Port int    `json:"port"`
	}
	r := start(t, Options{MaxBody: 100}, map[string]http.HandlerFunc{
		"PUT /things/{name}": func(w http.ResponseWriter, r *http.Request) {
			var b body
			if err := DecodeJSON(r, &b); err != nil {
				WriteError(w, err)
				return
			}
			WriteJSON(w, http.StatusCreated, b)
		},
		"GET /plain":    func(w http.ResponseWriter, _ *http.Request) { WriteError(w, errors.New("broken")) },
		"GET /conflict": func(w http.ResponseWriter, _ *http.Request) { WriteError(w, Errorf(409, "mode", "is %q &", "x")) },
		"GET /nojson":   func(w http.ResponseWriter, _ *http.Request) { WriteJSON(w, 200, make(chan int)) },
		"GET /panic":    func(http.ResponseWriter, *http.Request) { panic("oops") },
		"GET /nothing":  func(http.ResponseWriter, *http.Request) {},
	})
	for name, c := range map[string]struct {
		method, path, body string
		code               int
		want               string
	}{
		"good":             {"PUT", "/things/a", `{"name":"x","port":1}`, 201, `{"name":"x","port":1}`},
		"unknown field":    {"PUT", "/things/a", `{"nome":"x"}`, 400, `{"error":"unknown field","field":"nome"}`},
		"wrong type":       {"PUT", "/things/a", `{"port":"x"}`, 400, `{"error":"is a JSON string, which cannot be a int","field":"port"}`},
		"no JSON":          {"PUT", "/things/a", `{`, 400, `{"error":"the body is not JSON: unexpected EOF"}`},
		"empty":            {"PUT", "/things/a", "", 400, `{"error":"the body is empty; a JSON value is expected"}`},
		"two values":       {"PUT", "/things/a", "{} {}", 400, `{"error":"more than one JSON value in the body"}`},
		"too large":        {"PUT", "/things/a", `{"name":"` + strings.Repeat("x", 100) + `"}`, 413, `{"error":"the body is larger than 100 bytes"}`},
		"other error":      {"GET", "/plain", "", 500, `{"error":"broken"}`},
		"error with field": {"GET", "/conflict", "", 409, `{"error":"is \"x\" &","field":"mode"}`},
		"not writable":     {"GET", "/nojson", "", 500, `{"error":"the answer cannot be written as JSON"}`},
		"panic":            {"GET", "/panic", "", 500, `{"error":"internal error; the agent's log has the details"}`},
		"no answer":        {"GET", "/nothing", "", 200, ""},
		"no such path":     {"GET", "/nope", "", 404, `{"error":"there is no /nope"}`},
		"other method":     {"POST", "/things/a", "{}", 405, `{"error":"POST is not possible on /things/a, but PUT"}`},
		"ready":            {"GET", "/v1/health", "", 200, `{"ready":true}`},
	} {
		t.Run(name, func(t *testing.T) {
			code, header, body := r.do(t, c.method, c.path, c.body)
			must.Eq(t, c.code, code)
			must.Eq(t, c.want, body)
			if c.want != "" {
				must.Eq(t, "application/json", header.Get("Content-Type"))
			}
			if code == http.StatusMethodNotAllowed {
				must.Eq(t, "PUT", header.Get("Allow"))
			}
		})
	}
	code, _, metrics := r.do(t, "GET", "/metrics", "")
	must.Eq(t, 200, code)
	for _, want := range []string{
		`test_http_requests_total{code="201",route="PUT /things/{name}"} 1`,
		`test_http_requests_total{code="404",route=""} 1`,
		`test_http_requests_total{code="413",route="PUT /things/{name}"} 1`,
		"go_goroutines ", "process_resident_memory_bytes ",
	} {
		must.StrContains(t, metrics, want)
	}
}

// TestSlowBody: a client that does not send what it announced is told so and gets rid
// of.
func TestSlowBody(t *testing.T) {
	r := start(t, Options{IOTimeout: 50 * time.Millisecond}, map[string]http.HandlerFunc{
		"PUT /x": func(http.ResponseWriter, *http.Request) { t.Error("the handler ran") },
	})
	conn, err := net.Dial("unix", r.Addr().String())
	must.NoError(t, err)
	defer func() { must.NoError(t, conn.Close()) }()
	must.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123")
	must.NoError(t, err)
	answer, err := io.ReadAll(conn) // the server closes
	must.NoError(t, err)
	must.StrHasPrefix(t, "HTTP/1.1 408 ", string(answer))
}

// TestSlowReader: a client that does not read ends its handler's writes.
func TestSlowReader(t *testing.T) {
	ended := make(chan error, 1)
	r := start(t, Options{IOTimeout: 50 * time.Millisecond}, map[string]http.HandlerFunc{
		"GET /x": func(w http.ResponseWriter, _ *http.Request) {
			s, err := NewStream(w)
			for err == nil {
				err = s.Send("x", strings.Repeat("x", 1<<16))
			}
			ended <- err
		},
	})
	conn, err := net.Dial("unix", r.Addr().String())
	must.NoError(t, err)
	defer func() { must.NoError(t, conn.Close()) }()
	_, err = io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
	must.NoError(t, err)
	must.ErrorContains(t, receive(t, ended), `send event "x": `)
}

// TestDeadlinesDoNotStay: the deadlines of one request do not cut the next one on the
// same connection, and a stream may pause for longer than one.
func TestDeadlinesDoNotStay(t *testing.T) {
	const timeout = 50 * time.Millisecond
	var conns atomic.Int32
	proceed := make(chan struct{})
	r := start(t, Options{IOTimeout: timeout}, map[string]http.HandlerFunc{
		"PUT /x": func(w http.ResponseWriter, _ *http.Request) { WriteJSON(w, 200, "x") },
		"GET /stream": func(w http.ResponseWriter, r *http.Request) {
			s, err := NewStream(w)
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
	transport := r.http.Transport.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conns.Add(1)
		return dial(ctx, network, address)
	}
	code, _, _ := r.do(t, "PUT", "/x", "{}")
	must.Eq(t, 200, code)
	// The pause is the thing under test, so it has to take time.
	time.Sleep(2 * timeout)
	code, _, _ = r.do(t, "PUT", "/x", "{}")
	must.Eq(t, 200, code)

	resp, err := r.http.Get(r.url + "/stream")
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

// TestHTTP2StreamPauses: there the deadline of a write would also end a stream in which
// nothing is being written.
func TestHTTP2StreamPauses(t *testing.T) {
	const timeout = 300 * time.Millisecond
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	r := start(t, Options{
		IOTimeout: timeout,
		Listen:    Listen{Address: given("127.0.0.1:0"), CertFile: given(cert), KeyFile: given(key)},
	}, map[string]http.HandlerFunc{
		"GET /stream": func(w http.ResponseWriter, r *http.Request) {
			s, err := NewStream(w)
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
	roots, err := readCAs(cert)
	must.NoError(t, err)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("https://" + r.Addr().String() + "/stream")
	must.NoError(t, err)
	must.Eq(t, 2, resp.ProtoMajor)
	body, err := io.ReadAll(resp.Body)
	must.NoError(t, err)
	must.StrContains(t, string(body), "event: second\n")
	must.NoError(t, resp.Body.Close())
}

// TestClientLeaves: the handler of a stream learns of it, and also one that got a
// body.
func TestClientLeaves(t *testing.T) {
	begun, left := make(chan struct{}), make(chan struct{})
	r := start(t, Options{}, map[string]http.HandlerFunc{
		"PUT /x": func(w http.ResponseWriter, r *http.Request) {
			close(begun)
			<-r.Context().Done()
			close(left)
		},
	})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	failed := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, r.url+"/x", strings.NewReader("{}"))
		if err == nil {
			_, err = r.http.Do(req)
		}
		failed <- err
	}()
	receive(t, begun)
	leave()
	receive(t, left)
	must.ErrorIs(t, receive(t, failed), context.Canceled)
}

// TestPanicInStream: the client must not take a broken answer for a complete one.
func TestPanicInStream(t *testing.T) {
	r := start(t, Options{}, map[string]http.HandlerFunc{
		"GET /x": func(w http.ResponseWriter, _ *http.Request) {
			_, err := NewStream(w)
			must.NoError(t, err)
			panic("oops")
		},
	})
	resp, err := r.http.Get(r.url + "/x")
	must.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	must.ErrorIs(t, err, io.ErrUnexpectedEOF)
	must.NoError(t, resp.Body.Close())
	code, _, _ := r.do(t, "GET", "/v1/health", "")
	must.Eq(t, 200, code)
}

func TestStreamProblems(t *testing.T) {
	s, err := NewStream(httptest.NewRecorder())
	must.NoError(t, err)
	must.ErrorContains(t, s.Send("a\nb", 1), "is not one line")
	must.ErrorContains(t, s.Send("a", make(chan int)), "unsupported type")
}

func TestManagement(t *testing.T) {
	r := start(t, Options{Listen: Listen{Management: given("127.0.0.1:0")}}, nil)
	resp, err := http.Get("http://" + r.ManagementAddr().String() + "/debug/pprof/goroutine?debug=1")
	must.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	must.StrHasPrefix(t, "goroutine profile:", string(body))
	code, _, _ := r.do(t, "GET", "/debug/pprof/", "")
	must.Eq(t, 404, code)
	http.DefaultClient.CloseIdleConnections()
}
