package load_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/e2e/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const page = "a page of some length\n"

// server starts an HTTP server and returns its address.
func server(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func servePage(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, page) }

// fixed discovers the same addresses for ever.
func fixed(addresses ...string) load.Discover {
	return func(context.Context) ([]string, error) { return addresses, nil }
}

// refused returns an address at which nobody listens.
func refused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	must.NoError(t, l.Close())
	return l.Addr().String()
}

// wait polls until the condition on the results holds.
func wait(t *testing.T, g *load.Generator, what string, ok func(load.Result) bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok(g.Snapshot()) {
			return
		}
	}
	t.Fatalf("%s did not happen, results: %+v", what, g.Snapshot().Stats)
}

func start(t *testing.T, cfg load.Config) *load.Generator {
	t.Helper()
	g, err := load.Start(context.Background(), cfg)
	must.NoError(t, err)
	t.Cleanup(func() { g.Stop() })
	return g
}

// TestReasons checks that each way to fail is counted under its own name.
func TestReasons(t *testing.T) {
	sum := sha256.Sum256([]byte(page))
	right := load.Stream{BodyBytes: int64(len(page)), BodySHA256: hex.EncodeToString(sum[:])}

	cases := map[string]struct {
		handler  http.HandlerFunc
		discover func(t *testing.T) load.Discover
		stream   load.Stream
		want     string // empty: all requests succeed
	}{
		"good body":   {handler: servePage, stream: right},
		"status only": {handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }},
		"redirect is an answer": {handler: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}},
		"status": {
			handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
			want:    "status 503",
		},
		"refused": {
			discover: func(t *testing.T) load.Discover { return fixed(refused(t)) },
			want:     load.ReasonRefused,
		},
		"reset": {
			handler: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			want:    load.ReasonReset,
		},
		"cut": {
			handler: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "100")
				fmt.Fprint(w, "half")
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			},
			want: load.ReasonCut,
		},
		"short": {
			handler: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, page[:5]) },
			stream:  right,
			want:    load.ReasonCut,
		},
		"longer": {
			handler: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, page, page) },
			stream:  right,
			want:    load.ReasonWrongBody,
		},
		"another body": {
			handler: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.ToUpper(page)) },
			stream:  right,
			want:    load.ReasonWrongBody,
		},
		"timeout before the answer": {
			handler: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			stream:  load.Stream{Timeout: 20 * time.Millisecond},
			want:    load.ReasonTimeout,
		},
		"timeout in the body": {
			handler: func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "100")
				fmt.Fprint(w, "half")
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			},
			stream: load.Stream{Timeout: 20 * time.Millisecond},
			want:   load.ReasonTimeout,
		},
		"no instance": {
			discover: func(*testing.T) load.Discover { return fixed() },
			want:     load.ReasonNoInstance,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := tc.stream
			s.Name, s.Path, s.Rate = "s", "/", 200
			var discover load.Discover
			if tc.discover != nil {
				discover = tc.discover(t)
			} else {
				discover = fixed(server(t, tc.handler))
			}
			g := start(t, load.Config{Discover: discover, Streams: []load.Stream{s}})
			wait(t, g, "ten requests", func(r load.Result) bool { return r.Requests >= 10 })
			res := g.Stop()

			if tc.want == "" {
				must.Eq(t, 0, res.Failures, must.Sprint(res.Why()))
				must.Positive(t, res.Slowest)
				return
			}
			must.Eq(t, res.Requests, res.Failures)
			must.Eq(t, map[string]int64{tc.want: res.Failures}, res.Reasons)
			must.Eq(t, fmt.Sprintf("%d %s", res.Failures, tc.want), res.Why())
			must.SliceLen(t, 5, res.Samples)
			must.Eq(t, tc.want, res.Samples[0].Reason)
		})
	}
}

func TestOverload(t *testing.T) {
	release := make(chan struct{})
	addr := server(t, func(http.ResponseWriter, *http.Request) { <-release })
	g := start(t, load.Config{
		Discover:    fixed(addr),
		Streams:     []load.Stream{{Name: "s", Path: "/", Rate: 200}},
		MaxInFlight: 3,
	})
	wait(t, g, "overload", func(r load.Result) bool { return r.Reasons[load.ReasonOverload] >= 3 })
	close(release)
	res := g.Stop()
	must.Eq(t, map[string]int64{load.ReasonOverload: res.Failures}, res.Reasons)
	must.GreaterEq(t, res.Failures+3, res.Requests) // those that had a place succeeded
}

// TestStallShows checks that a stall neither stops the sending nor hides in the
// latency of a single request: all that were due before it ended carry it.
func TestStallShows(t *testing.T) {
	const n = 20
	release := make(chan struct{})
	arrived := make(chan struct{}, 10*n)
	addr := server(t, func(http.ResponseWriter, *http.Request) {
		select {
		case arrived <- struct{}{}:
		default:
		}
		<-release
	})
	g := start(t, load.Config{Discover: fixed(addr), Streams: []load.Stream{{Name: "s", Path: "/", Rate: 200}}})
	for range n {
		<-arrived
	}
	g.Phase("later")
	phase := time.Now()
	for range n {
		<-arrived
	}
	stalled := time.Since(phase)
	close(release)
	wait(t, g, "the answers", func(r load.Result) bool { return r.Phases[0].Requests >= n })
	res := g.Stop()

	must.Eq(t, 0, res.Failures)
	// Three digits are kept of a latency.
	must.GreaterEq(t, stalled*99/100, res.Phases[0].P50)
	must.GreaterEq(t, res.Phases[0].P50, res.Phases[0].Slowest)
}

// TestRoundRobin checks that instances share the requests and that a changed answer
// of discovery is followed.
func TestRoundRobin(t *testing.T) {
	var hits [3]atomic.Int64
	var addrs []string
	for i := range hits {
		addrs = append(addrs, server(t, func(http.ResponseWriter, *http.Request) { hits[i].Add(1) }))
	}
	var shrunk atomic.Bool
	g := start(t, load.Config{
		Discover: func(context.Context) ([]string, error) {
			if shrunk.Load() {
				return addrs[2:], nil
			}
			return addrs[:2], nil
		},
		Streams: []load.Stream{{Name: "s", Path: "/", Rate: 300}},
		Refresh: 10 * time.Millisecond,
	})
	wait(t, g, "requests", func(r load.Result) bool { return r.Requests >= 20 })
	must.Eq(t, 0, hits[2].Load())
	must.Positive(t, hits[0].Load())
	must.Positive(t, hits[1].Load())
	shrunk.Store(true)
	wait(t, g, "the new instance", func(load.Result) bool { return hits[2].Load() >= 5 })
	must.Eq(t, 0, g.Stop().Failures)
	diff := hits[0].Load() - hits[1].Load()
	must.Between(t, -1, diff, 1)
}

// TestDiscoveryFailure checks that the last known instances stay in use.
func TestDiscoveryFailure(t *testing.T) {
	addr := server(t, servePage)
	var broken atomic.Bool
	g := start(t, load.Config{
		Discover: func(context.Context) ([]string, error) {
			if broken.Load() {
				return nil, errors.New("catalog is away")
			}
			return []string{addr}, nil
		},
		Streams: []load.Stream{{Name: "s", Path: "/", Rate: 100}},
		Refresh: 5 * time.Millisecond,
	})
	broken.Store(true)
	wait(t, g, "failed discoveries", func(r load.Result) bool { return r.DiscoveryFailures >= 3 && r.Requests >= 10 })
	res := g.Stop()
	must.Eq(t, 0, res.Failures)
	must.StrContains(t, res.DiscoveryError, "catalog is away")
}

// TestPhases checks that a request counts for the phase in which it was due, not
// for the one in which it ended.
func TestPhases(t *testing.T) {
	release := make(chan struct{})
	addr := server(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
	})
	g := start(t, load.Config{
		Discover: fixed(addr),
		Streams: []load.Stream{
			{Name: "fast", Path: "/fast", Rate: 100},
			{Name: "slow", Path: "/slow", Rate: 1e-3}, // one request, at once
		},
	})
	wait(t, g, "fast requests", func(r load.Result) bool { return r.Requests >= 3 })
	g.Phase("second")
	wait(t, g, "the second phase", func(r load.Result) bool { return r.Phases[1].Requests >= 3 })
	close(release)
	g.Phase("second")
	wait(t, g, "the third phase", func(r load.Result) bool { return r.Phases[2].Requests >= 3 })
	res := g.Stop()

	must.SliceLen(t, 3, res.Phases)
	must.Eq(t, load.FirstPhase, res.Phases[0].Name)
	must.Eq(t, 1, res.Phases[0].Streams["slow"].Requests)
	must.Eq(t, 0, res.Phases[1].Streams["slow"].Requests)
	must.Eq(t, 1, res.Streams["slow"].Requests)
	must.Eq(t, res.Requests, res.Streams["slow"].Requests+res.Streams["fast"].Requests)

	second, ok := res.Phase("second")
	must.True(t, ok)
	must.Eq(t, res.Phases[1].Requests+res.Phases[2].Requests, second.Requests)
	must.Eq(t, second.Requests, second.Streams["fast"].Requests)
	_, ok = res.Phase("never")
	must.False(t, ok)
	must.Eq(t, res, g.Stop()) // a second Stop changes nothing
}

// TestExpectGone checks that instances that are still known have to answer, and
// that nothing is counted once none is.
func TestExpectGone(t *testing.T) {
	var known atomic.Bool
	known.Store(true)
	addr := refused(t)
	g := start(t, load.Config{
		Discover: func(context.Context) ([]string, error) {
			if known.Load() {
				return []string{addr}, nil
			}
			return nil, nil
		},
		Streams: []load.Stream{{Name: "s", Path: "/", Rate: 200}},
		Refresh: 5 * time.Millisecond,
	})
	g.ExpectGone()
	wait(t, g, "failures", func(r load.Result) bool { return r.Failures >= 3 })
	known.Store(false)

	// The count has to come to rest. Rest is twenty intervals without a request.
	last, since := g.Snapshot().Requests, time.Now()
	wait(t, g, "rest", func(r load.Result) bool {
		if r.Requests != last {
			last, since = r.Requests, time.Now()
		}
		return time.Since(since) > 100*time.Millisecond
	})
	res := g.Stop()
	must.Eq(t, map[string]int64{load.ReasonRefused: res.Failures}, res.Reasons)
}

func TestStartRefuses(t *testing.T) {
	good := load.Stream{Name: "s", Path: "/", Rate: 1}
	with := func(change func(*load.Stream)) []load.Stream {
		s := good
		change(&s)
		return []load.Stream{s}
	}
	cases := map[string]struct {
		cfg  load.Config
		want string
	}{
		"no discovery":  {load.Config{Streams: []load.Stream{good}}, "no discovery function"},
		"no stream":     {load.Config{Discover: fixed()}, "no stream"},
		"no name":       {load.Config{Discover: fixed(), Streams: with(func(s *load.Stream) { s.Name = "" })}, "has no name"},
		"same name":     {load.Config{Discover: fixed(), Streams: []load.Stream{good, good}}, `two streams are named "s"`},
		"path":          {load.Config{Discover: fixed(), Streams: with(func(s *load.Stream) { s.Path = "x" })}, "slash"},
		"rate":          {load.Config{Discover: fixed(), Streams: with(func(s *load.Stream) { s.Rate = 0 })}, "not above 0"},
		"timeout":       {load.Config{Discover: fixed(), Streams: with(func(s *load.Stream) { s.Timeout = -1 })}, "negative"},
		"body":          {load.Config{Discover: fixed(), Streams: with(func(s *load.Stream) { s.BodyBytes = -1 })}, "negative"},
		"refresh":       {load.Config{Discover: fixed(), Streams: []load.Stream{good}, Refresh: -1}, "negative"},
		"in flight":     {load.Config{Discover: fixed(), Streams: []load.Stream{good}, MaxInFlight: -1}, "negative"},
		"first refusal": {load.Config{Discover: func(context.Context) ([]string, error) { return nil, errors.New("no catalog") }, Streams: []load.Stream{good}}, "no catalog"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := load.Start(context.Background(), tc.cfg)
			must.ErrorContains(t, err, tc.want)
		})
	}
}

// TestCancel checks that the end of the owner's context ends the load, and that
// requests which it cut are not held against the service.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	entered := make(chan struct{}, 100)
	addr := server(t, func(_ http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-r.Context().Done()
	})
	g, err := load.Start(ctx, load.Config{Discover: fixed(addr), Streams: []load.Stream{{Name: "s", Path: "/", Rate: 50}}})
	must.NoError(t, err)
	<-entered
	cancel()
	must.Eq(t, 0, g.Stop().Requests)
}

func TestConsul(t *testing.T) {
	const health = `[
	  {"Node":{"Node":"a","Address":"192.0.2.1"},"Service":{"Service":"web","Address":"","Port":80}},
	  {"Node":{"Node":"b","Address":"192.0.2.2"},"Service":{"Service":"web","Address":"::1","Port":8080}}
	]`
	cases := map[string]struct {
		status  int
		want    []string
		wantErr string
	}{
		"two instances": {status: http.StatusOK, want: []string{"192.0.2.1:80", "[::1]:8080"}},
		"error":         {status: http.StatusInternalServerError, wantErr: `read health of service "web"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			addr := server(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1/health/service/web" || !r.URL.Query().Has("passing") {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				w.WriteHeader(tc.status)
				fmt.Fprint(w, health)
			})
			transport := &http.Transport{DisableKeepAlives: true}
			client, err := api.NewClient(&api.Config{Address: addr, Transport: transport})
			must.NoError(t, err)
			got, err := load.Consul(client, "web")(context.Background())
			if tc.wantErr != "" {
				must.ErrorContains(t, err, tc.wantErr)
				return
			}
			must.NoError(t, err)
			must.Eq(t, tc.want, got)
		})
	}
}
