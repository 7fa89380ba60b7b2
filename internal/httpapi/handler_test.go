package httpapi

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestAnswers(t *testing.T) {
	type body struct {
		Name string `json:"name"`
		Port int    `json:"port"`
	}
	answered := make(chan string, 1)
	r := start(t, Handler{
		MaxBody: 100,
		Answered: func(_ *http.Request, route string, status int, _ time.Duration) {
			answered <- fmt.Sprint(route, " ", status)
		},
	}, map[string]http.HandlerFunc{
		"PUT /things/{name}": func(w http.ResponseWriter, r *http.Request) {
			var b body
			if err := ReadJSON(r.Body, &b); err != nil {
				WriteError(w, err)
				return
			}
			WriteJSON(w, http.StatusCreated, b)
		},
		"GET /plain":    func(w http.ResponseWriter, _ *http.Request) { WriteError(w, errors.New("broken")) },
		"GET /conflict": func(w http.ResponseWriter, _ *http.Request) { WriteError(w, Errorf(409, "mode", "is %q &", "x")) },
		"GET /wrapped": func(w http.ResponseWriter, _ *http.Request) {
			WriteError(w, fmt.Errorf("x: %w", Errorf(503, "", "not now").After(1500*time.Millisecond)))
		},
		"GET /nojson":  func(w http.ResponseWriter, _ *http.Request) { WriteJSON(w, 200, make(chan int)) },
		"GET /panic":   func(http.ResponseWriter, *http.Request) { panic("oops") },
		"GET /nothing": func(http.ResponseWriter, *http.Request) {},
	})
	for name, c := range map[string]struct {
		method, path, body string
		code               int
		want, route        string
		header             map[string]string
	}{
		"good":             {"PUT", "/things/a", `{"name":"x","port":1}`, 201, `{"name":"x","port":1}`, "PUT /things/{name}", nil},
		"unknown field":    {"PUT", "/things/a", `{"nome":"x"}`, 400, `{"error":"unknown field","field":"nome"}`, "PUT /things/{name}", nil},
		"wrong type":       {"PUT", "/things/a", `{"port":"x"}`, 400, `{"error":"is a JSON string, which cannot be a int","field":"port"}`, "PUT /things/{name}", nil},
		"cut short":        {"PUT", "/things/a", `{`, 400, `{"error":"the body is not JSON: unexpected EOF"}`, "PUT /things/{name}", nil},
		"no JSON":          {"PUT", "/things/a", `name=x`, 400, `{"error":"the body is not JSON: invalid character 'a' in literal null (expecting 'u')"}`, "PUT /things/{name}", nil},
		"empty":            {"PUT", "/things/a", "", 400, `{"error":"the body is empty; a JSON value is expected"}`, "PUT /things/{name}", nil},
		"two values":       {"PUT", "/things/a", "{} {}", 400, `{"error":"more than one JSON value in the body"}`, "PUT /things/{name}", nil},
		"too large":        {"PUT", "/things/a", `{"name":"` + strings.Repeat("x", 100) + `"}`, 413, `{"error":"the body is larger than 100 bytes"}`, "PUT /things/{name}", nil},
		"other error":      {"GET", "/plain", "", 500, `{"error":"broken"}`, "GET /plain", nil},
		"error with field": {"GET", "/conflict", "", 409, `{"error":"is \"x\" &","field":"mode"}`, "GET /conflict", map[string]string{"Retry-After": ""}},
		"try later":        {"GET", "/wrapped", "", 503, `{"error":"not now"}`, "GET /wrapped", map[string]string{"Retry-After": "2"}},
		"not writable":     {"GET", "/nojson", "", 500, `{"error":"the answer cannot be written as JSON"}`, "GET /nojson", nil},
		"panic":            {"GET", "/panic", "", 500, `{"error":"internal error; the log has the details"}`, "GET /panic", nil},
		"no answer":        {"GET", "/nothing", "", 200, "", "GET /nothing", nil},
		"no such path":     {"GET", "/nope", "", 404, `{"error":"there is no /nope"}`, "", nil},
		"no root":          {"GET", "/", "", 404, `{"error":"there is no /"}`, "", nil},
		"other method":     {"POST", "/things/a", "{}", 405, `{"error":"POST is not possible on /things/a, but PUT"}`, "", map[string]string{"Allow": "PUT"}},
		"not a GET":        {"GET", "/things/a", "", 405, `{"error":"GET is not possible on /things/a, but PUT"}`, "", map[string]string{"Allow": "PUT"}},
		"not a PUT":        {"PUT", "/plain", "{}", 405, `{"error":"PUT is not possible on /plain, but GET, HEAD"}`, "", map[string]string{"Allow": "GET, HEAD"}},
	} {
		t.Run(name, func(t *testing.T) {
			code, header, body := r.do(t, c.method, c.path, c.body)
			must.Eq(t, c.code, code)
			must.Eq(t, c.want, body)
			if c.want != "" {
				must.Eq(t, "application/json", header.Get("Content-Type"))
				must.Eq(t, "no-store", header.Get("Cache-Control"))
			}
			for k, v := range c.header {
				must.Eq(t, v, header.Get(k))
			}
			must.Eq(t, fmt.Sprint(c.route, " ", c.code), <-answered) // after the client has its answer
		})
	}
}

// What is refused is neither looked for nor read.
func TestRefuse(t *testing.T) {
	r := start(t, Handler{NoHead: true, MaxBody: 1, Refuse: func(_ http.ResponseWriter, r *http.Request) *Error {
		if r.Method == http.MethodPost {
			return Errorf(http.StatusUnauthorized, "", "who are you?")
		}
		return nil
	}}, map[string]http.HandlerFunc{"GET /x": func(http.ResponseWriter, *http.Request) {}})
	for _, path := range []string{"/x", "/nothing"} {
		code, header, body := r.do(t, "POST", path, "too large")
		must.Eq(t, 401, code)
		must.Eq(t, `{"error":"who are you?"}`, body)
		must.Eq(t, "Bearer", header.Get("WWW-Authenticate"))
	}
	code, header, body := r.do(t, "PUT", "/x", "")
	must.Eq(t, 405, code)
	must.Eq(t, "GET", header.Get("Allow"))
	must.Eq(t, `{"error":"PUT is not possible on /x, but GET"}`, body)
	code, _, _ = r.do(t, "GET", "/x", "")
	must.Eq(t, 200, code)
}

func TestHasToken(t *testing.T) {
	hash := sha256.Sum256([]byte("secret"))
	for header, want := range map[string]bool{
		"Bearer secret":   true,
		"bearer  secret ": true,
		"Bearer secre":    false,
		"Bearer secretx":  false,
		"Bearer":          false,
		"Basic secret":    false,
		"secret":          false,
		"":                false,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", header)
		must.Eq(t, want, HasToken(r, hash), must.Sprint(header))
	}
}

// A client that does not send what it announced is told so and got rid of.
func TestSlowBody(t *testing.T) {
	r := start(t, Handler{Timeout: 50 * time.Millisecond}, map[string]http.HandlerFunc{
		"PUT /x": func(http.ResponseWriter, *http.Request) { t.Error("the handler ran") },
	})
	conn := r.raw(t, "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123")
	must.NoError(t, conn.SetDeadline(time.Now().Add(ample)))
	answer, err := io.ReadAll(conn) // the server closes
	must.NoError(t, err)
	must.StrHasPrefix(t, "HTTP/1.1 408 ", string(answer))
	must.StrContains(t, string(answer), "the body did not arrive within 50ms")
}

// raw sends a request and returns the connection.
func (r *running) raw(t *testing.T, request string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", r.Listener.Addr().String())
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, conn.Close()) })
	_, err = io.WriteString(conn, request)
	must.NoError(t, err)
	return conn
}

// The handler learns that its client has left, also one that got a body.
func TestClientLeaves(t *testing.T) {
	begun, left := make(chan struct{}), make(chan struct{})
	r := start(t, Handler{}, map[string]http.HandlerFunc{
		"PUT /x": func(_ http.ResponseWriter, r *http.Request) {
			close(begun)
			<-r.Context().Done()
			close(left)
		},
	})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	failed := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, r.URL+"/x", strings.NewReader("{}"))
		if err == nil {
			_, err = r.Client().Do(req)
		}
		failed <- err
	}()
	<-begun
	leave()
	<-left
	must.ErrorIs(t, <-failed, context.Canceled)
}
