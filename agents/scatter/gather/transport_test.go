package gather

import (
	"context"
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

// leafServer counts the connections that are open.
func leafServer(t *testing.T, h http.HandlerFunc) (s *httptest.Server, open *atomic.Int64) {
	t.Helper()
	open = new(atomic.Int64)
	s = httptest.NewUnstartedServer(h)
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		switch st {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s, open
}

func ask(t *testing.T, tr *transport, method, url, body string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	must.NoError(t, err)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(resp.Body)
	return string(text), errors.Join(err, resp.Body.Close())
}

// Connections are used again, closed when a leaf is none any more, and one that the leaf has
// closed meanwhile costs nobody an answer.
func TestTransport(t *testing.T) {
	s, open := leafServer(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, r.Method+" "+string(b))
	})
	tr := newTransport()
	address := strings.TrimPrefix(s.URL, "http://")
	for range 3 {
		text, err := ask(t, tr, "POST", s.URL, "x")
		must.NoError(t, err)
		must.Eq(t, "POST x", text)
	}
	must.Eq(t, 1, open.Load())
	for _, method := range []string{"GET", "POST"} { // a POST is not sent twice, so the connection is looked at first
		s.CloseClientConnections()
		text, err := ask(t, tr, method, s.URL, "y")
		must.NoError(t, err, must.Sprint(method))
		must.Eq(t, method+" y", text)
	}
	tr.retain(map[string]bool{"other:1": true})
	must.MapEmpty(t, tr.idle)
	_, err := ask(t, tr, "GET", s.URL, "")
	must.NoError(t, err)
	must.MapEmpty(t, tr.idle) // it is not kept
	tr.retain(map[string]bool{address: true})
	_, err = ask(t, tr, "GET", s.URL, "")
	must.NoError(t, err)
	must.MapLen(t, 1, tr.idle)
	tr.retain(map[string]bool{})
}

// A body that is not read to its end costs the connection, and nothing else.
func TestTransport_NotRead(t *testing.T) {
	s, _ := leafServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 100_000)) })
	tr := newTransport()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
	must.NoError(t, err)
	resp, err := tr.RoundTrip(req)
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	must.MapEmpty(t, tr.idle)
	text, err := ask(t, tr, "GET", s.URL, "")
	must.NoError(t, err)
	must.Eq(t, 100_000, len(text))
	tr.retain(map[string]bool{})
}
