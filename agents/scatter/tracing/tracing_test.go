package tracing

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is a collector that keeps the spans that it is sent, by name.
type receiver struct {
	mu    sync.Mutex
	spans map[string]*tracev1.Span
}

func (c *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		body = z
	}
	text, err := io.ReadAll(body)
	var req collector.ExportTraceServiceRequest
	if err = errors.Join(err, proto.Unmarshal(text, &req)); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, res := range req.GetResourceSpans() {
		for _, scope := range res.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans[s.GetName()] = s
			}
		}
	}
}

// The spans of a request and of those to its leaves hang together, and leaves are told.
func TestSpans(t *testing.T) {
	c := &receiver{spans: map[string]*tracev1.Span{}}
	s := httptest.NewServer(c)
	defer s.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", s.URL)
	tr, err := FromEnv(t.Context(), "v1", "root-1", hclog.NewNullLogger())
	must.NoError(t, err)
	r := httptest.NewRequest(http.MethodGet, "/search?q=x", nil)
	r.Header.Set("Traceparent", "00-0123456789abcdef0123456789abcdef-fedcba9876543210-01")
	span := tr.Start(r, "search")
	told := http.Header{}
	span.Leaf(gather.Leaf{ID: "l0", Shard: "0", Address: "127.0.0.1:1"}, 1, told)("", "")
	span.Leaf(gather.Leaf{ID: "l1", Shard: "1", Address: "127.0.0.1:2"}, 2, http.Header{})(gather.Timeout, "no answer")
	span.End(gather.Coverage{OK: 1, Total: 2}, errors.New("too little"))
	must.NoError(t, tr.Close())

	must.MapLen(t, 3, c.spans)
	root, ok, failed := c.spans["GET search"], c.spans["leaf 0"], c.spans["leaf 1"]
	must.Eq(t, "0123456789abcdef0123456789abcdef", hex.EncodeToString(root.GetTraceId()))
	must.Eq(t, "fedcba9876543210", hex.EncodeToString(root.GetParentSpanId()))
	must.Eq(t, root.GetSpanId(), ok.GetParentSpanId())
	must.Eq(t, root.GetSpanId(), failed.GetParentSpanId())
	must.Eq(t, "00-0123456789abcdef0123456789abcdef-"+hex.EncodeToString(ok.GetSpanId())+"-01", told.Get("Traceparent"))
	must.Eq(t, tracev1.Status_STATUS_CODE_ERROR, root.GetStatus().GetCode())
	must.Eq(t, tracev1.Status_STATUS_CODE_UNSET, ok.GetStatus().GetCode())
	must.Eq(t, "no answer", failed.GetStatus().GetMessage())
}

// Without a collector nothing is made, and one that is away holds nothing up.
func TestNoCollector(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	tr, err := FromEnv(t.Context(), "v1", "x", hclog.NewNullLogger())
	must.NoError(t, err)
	must.Nil(t, tr)
	span := tr.Start(httptest.NewRequest(http.MethodGet, "/", nil), "r")
	must.Nil(t, span)
	span.End(gather.Coverage{}, nil)
	must.NoError(t, tr.Close())

	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	var said bytes.Buffer // hclog writes under a lock
	tr, err = FromEnv(t.Context(), "v1", "x", hclog.New(&hclog.LoggerOptions{Output: &said}))
	must.NoError(t, err)
	tr.Start(httptest.NewRequest(http.MethodGet, "/", nil), "r").End(gather.Coverage{}, nil)
	must.NoError(t, tr.Close())
	must.StrContains(t, said.String(), "connection refused")
}
