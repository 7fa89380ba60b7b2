package server

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/merge"
)

// adder is a merge container that adds up the sizes of parts.
type adder struct {
	mu   sync.Mutex
	sums map[string]int
}

func (a *adder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, finish := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/"), "/finish")
	switch {
	case r.Method == http.MethodDelete:
		delete(a.sums, id)
	case finish:
		w.WriteHeader(http.StatusAccepted)
		_, _ = fmt.Fprint(w, a.sums[id])
		delete(a.sums, id)
	default:
		parts, err := merge.NewReader(r.Body, merge.ReaderConfig{})
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		var garbage []string
		for {
			p, err := parts.Next()
			if err != nil {
				break
			}
			if strings.HasPrefix(string(p.Body), "garbage") {
				garbage = append(garbage, p.Shard)
				continue
			}
			a.sums[id] += len(p.Body)
		}
		if garbage != nil {
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = fmt.Fprintf(w, `{"garbage":["%s"]}`, strings.Join(garbage, `","`))
		}
	}
}

func container(t *testing.T, url string) *merge.Container {
	t.Helper()
	c, err := merge.NewContainer(merge.ContainerConfig{URL: url})
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, c.Close()) })
	return c
}

// What a merge container makes of the answers, and what becomes of requests when it does not.
func TestContainer(t *testing.T) {
	ok, garbage := leaf(t, says("12345")), leaf(t, says("garbage"))
	sums := &adder{sums: map[string]int{}}
	well := "http://" + leaf(t, sums.ServeHTTP)
	s := front(t, RouteConfig{Merger: container(t, well)}, gather.Config{}, ok, ok)
	code, h, body, _ := get(t, s.URL)
	must.Eq(t, http.StatusAccepted, code)
	must.Eq(t, "10", body)
	must.Eq(t, "ok=2, total=2", h.Get(gather.CoverageHeader))

	// What it cannot use is missing, which is known at the end only.
	s = front(t, RouteConfig{Merger: container(t, well)}, gather.Config{}, ok, garbage)
	code, h, _, _ = get(t, s.URL)
	must.Eq(t, http.StatusBadGateway, code)
	must.Eq(t, "ok=1, total=2", h.Get(gather.CoverageHeader))
	must.Eq(t, "1;reason=garbage", h.Get(gather.MissingHeader))
	code, _, body, _ = get(t, s.URL, CoverageWantedHeader, "0.5")
	must.Eq(t, http.StatusAccepted, code)
	must.Eq(t, "5", body)

	for name, c := range map[string]struct {
		url  string
		code int
	}{
		"down":    {"http://127.0.0.1:1", http.StatusBadGateway},
		"crashes": {"http://" + raw(t, func(net.Conn) {}), http.StatusBadGateway},
		"hangs":   {"http://" + raw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), http.StatusGatewayTimeout},
		"fails":   {"http://" + leaf(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }), http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := front(t, RouteConfig{Merger: container(t, c.url)}, gather.Config{Timeout: 2 * time.Second}, ok)
			code, _, body, _ := get(t, s.URL)
			must.Eq(t, c.code, code, must.Sprint(body))
			must.StrContains(t, body, "merge container")
		})
	}
}
