package httpapi

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ample is a time that no request of a test takes.
const ample = time.Minute

// running is a Handler that serves until the end of a test.
type running struct{ *httptest.Server }

// start serves handlers by their patterns, in plain HTTP.
func start(t *testing.T, h Handler, handlers map[string]http.HandlerFunc) *running {
	t.Helper()
	r := prepare(t, h, handlers)
	r.Start()
	return r
}

// prepare makes a server that does not serve yet.
func prepare(t *testing.T, h Handler, handlers map[string]http.HandlerFunc) *running {
	t.Helper()
	h.Mux, h.Log, h.Details = http.NewServeMux(), hclog.NewNullLogger(), "the log"
	if h.Timeout == 0 {
		h.Timeout = ample
	}
	if h.MaxBody == 0 {
		h.MaxBody = 1 << 20
	}
	for pattern, f := range handlers {
		h.Mux.HandleFunc(pattern, f)
	}
	r := &running{httptest.NewUnstartedServer(&h)}
	r.Config.ErrorLog = hclog.NewNullLogger().StandardLogger(nil)
	t.Cleanup(r.Close)
	return r
}

// do makes a request and returns status, header and body without the final newline.
func (r *running) do(t *testing.T, method, path, body string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.URL+path, strings.NewReader(body))
	must.NoError(t, err)
	resp, err := r.Client().Do(req)
	must.NoError(t, err)
	data, err := io.ReadAll(resp.Body)
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	return resp.StatusCode, resp.Header, strings.TrimSuffix(string(data), "\n")
}
