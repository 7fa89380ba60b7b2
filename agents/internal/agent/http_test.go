package agent

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

func TestAnswers(t *testing.T) {
	r := start(t, Options{MaxBody: 100}, map[string]http.HandlerFunc{
		"PUT /things/{name}": func(w http.ResponseWriter, _ *http.Request) { httpapi.WriteJSON(w, http.StatusCreated, "x") },
		"GET /panic":         func(http.ResponseWriter, *http.Request) { panic("oops") },
	})
	for name, c := range map[string]struct {
		method, path, body string
		code               int
		want               string
	}{
		"good":         {"PUT", "/things/a", "{}", 201, `"x"`},
		"too large":    {"PUT", "/things/a", strings.Repeat("x", 101), 413, `{"error":"the body is larger than 100 bytes"}`},
		"panic":        {"GET", "/panic", "", 500, `{"error":"internal error; the agent's log has the details"}`},
		"no such path": {"GET", "/nope", "", 404, `{"error":"there is no /nope"}`},
		"other method": {"POST", "/panic", "", 405, `{"error":"POST is not possible on /panic, but GET, HEAD"}`},
		"ready":        {"GET", "/v1/health", "", 200, `{"ready":true}`},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, body := r.do(t, c.method, c.path, c.body)
			must.Eq(t, c.code, code)
			must.Eq(t, c.want, body)
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
