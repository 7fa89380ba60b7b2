package manage

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/shoenig/test/must"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

func FuzzReplicateRequest(f *testing.F) {
	for _, s := range []string{`{"delta":1}`, `{"delta":-9223372036854775808}`, `{"delta":null}`, `{"delta":1}x`, `[]`, `{"delta":1,"delta":2}`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		delta, err := replicateRequest(bytes.NewReader(body))
		if err == nil && delta == 0 {
			t.Fatal("0 was taken")
		}
		if err != nil && !isBadRequest(err) {
			t.Fatalf("refused with %#v", err)
		}
	})
}

func isBadRequest(err error) bool {
	var e *httpapi.Error
	return errors.As(err, &e) && e.Status == 400 && e.Message != ""
}

func FuzzEmptyRequest(f *testing.F) {
	for _, s := range []string{``, ` {} `, `{"a":1}`, `{}{}`, `null`, `[]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := emptyRequest(bytes.NewReader(body)); err != nil && !isBadRequest(err) {
			t.Fatalf("refused with %#v", err)
		}
	})
}

func FuzzLogQuery(f *testing.F) {
	for _, s := range []string{``, `tail=1`, `tail=-1`, `follow`, `follow=true&tail=9`, `%zz`, `tail=1&tail=2`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := parseLogQuery(raw)
		if err == nil && (q.tail < 0 || q.tail > maxTail) {
			t.Fatalf("%d lines", q.tail)
		}
	})
}

// Whatever is asked for, the profile's path is not left.
func FuzzOfferPath(f *testing.F) {
	for _, s := range []string{``, `heap`, `../x`, `a/../../..`, `a//b/`, `%2e%2e`, "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sub string) {
		r := httptest.NewRequest(http.MethodGet, "/profile/", nil)
		r.SetPathValue("path", sub)
		got := Offer{Kind: KindProfile, Path: "/debug/pprof"}.path(r)
		if !strings.HasPrefix(got, "/debug/pprof/") || !strings.HasPrefix(path.Clean(got)+"/", "/debug/pprof/") {
			t.Fatalf("%q leads to %q", sub, got)
		}
	})
}

func FuzzProfileTime(f *testing.F) {
	for _, s := range []string{``, `30`, `0.5`, `1e9`, `NaN`, `-0`, `Inf`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, seconds string) {
		d, err := profileTime(url.Values{"seconds": {seconds}})
		if err == nil && (d < 0 || d.Seconds() > maxProfile) {
			t.Fatalf("%q is %s", seconds, d)
		}
	})
}

// The rest of a task's path goes to its process as it was.
func FuzzWithAlloc(f *testing.F) {
	for _, s := range []string{`/v1/tasks/aaaaaaaa/app`, `/v1/tasks/aaaaaaaa/a%2Fb/profile/x%3Fy`, `/v1/tasks/x`, `/v1/tasks/x//`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil || !strings.HasPrefix(u.EscapedPath(), "/v1/tasks/") {
			return
		}
		to, err := withAlloc(u, allocA)
		if err != nil {
			return
		}
		if to.Host != "localhost" || to.User != nil || to.RawQuery != u.RawQuery {
			t.Fatalf("%q leads to %q", raw, to)
		}
		want := strings.SplitN(u.EscapedPath(), "/", 5)
		got := strings.SplitN(to.EscapedPath(), "/", 5)
		if got[3] != allocA || got[4] != want[4] {
			t.Fatalf("%q became %q", raw, to.EscapedPath())
		}
	})
}

func FuzzMergeMetrics(f *testing.F) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), prometheus.NewGauge(prometheus.GaugeOpts{Name: "up", ConstLabels: prometheus.Labels{"driver": "own"}}))
	families, err := registry.Gather()
	must.NoError(f, err)
	var whole bytes.Buffer
	for _, one := range families {
		var alone bytes.Buffer
		for _, w := range []io.Writer{&whole, &alone} {
			_, err := protodelim.MarshalTo(w, one)
			must.NoError(f, err)
		}
		f.Add(alone.Bytes())
	}
	f.Add(whole.Bytes())
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, body []byte) {
		into := make(map[string]*dto.MetricFamily)
		if mergeMetrics(into, "d", body) != nil && len(into) != 0 {
			t.Fatal("a part was merged")
		}
		for _, one := range into {
			if _, err := expfmt.MetricFamilyToText(io.Discard, one); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzDownward(f *testing.F) {
	f.Add("GET /v1/state HTTP/1.1\r\nHost: x\r\n\r\n")
	f.Add("POST /v1/replicate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}{}{\r\n0\r\n\r\n")
	f.Fuzz(func(_ *testing.T, raw string) {
		// The whole way of a request, without a connection.
		app := newApp(allocA, "app")
		app.info.Saves, app.info.Replicate = true, &Bounds{1, 3}
		app.save = func(context.Context) (Checkpoint, error) { return Checkpoint{}, nil }
		app.replicate = func(context.Context, int64) (Scaled, error) { return Scaled{}, nil }
		d := newDownward(app, Options{}.withDefaults())
		method, rest, _ := strings.Cut(raw, " ")
		target, body, _ := strings.Cut(rest, "\r\n\r\n")
		target, _, _ = strings.Cut(target, " ")
		u, err := url.ParseRequestURI(target)
		if err != nil || !validMethod(method) || strings.HasPrefix(u.Path, "/v1/events") {
			return
		}
		r := httptest.NewRequest(http.MethodGet, "/", strings.NewReader(body))
		r.Method, r.URL = method, u
		w := httptest.NewRecorder()
		d.ServeHTTP(w, r)
		if w.Code >= 500 {
			panic(w.Body.String())
		}
	})
}

func validMethod(m string) bool {
	return m != "" && strings.Trim(m, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}
