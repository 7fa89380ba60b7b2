package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/merge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines merges by writing each partial answer as a line.
type lines struct{ finish error }

type lineMerge struct {
	w      merge.Writer
	finish error
}

func (l lines) Begin(_ context.Context, _ merge.Request, w merge.Writer) (merge.Merge, error) {
	return &lineMerge{w, l.finish}, nil
}

func (m *lineMerge) Add(p merge.Partial) error {
	m.w.Header().Set("Content-Type", "text/plain")
	_, err := fmt.Fprintf(m.w, "%s\n", bytes.TrimSpace(p.Body))
	return err
}
func (m *lineMerge) Finish() error { return m.finish }
func (m *lineMerge) Abort()        {}

// raw is a leaf that speaks for itself, below HTTP.
func raw(t *testing.T, speak func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				_, _ = http.ReadRequest(bufio.NewReader(c))
				speak(c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		must.NoError(t, l.Close())
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

func leaf(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// front is a root that asks leaves.
func front(t *testing.T, cfg RouteConfig, g gather.Config, addresses ...string) *httptest.Server {
	t.Helper()
	if g.Timeout == 0 {
		g.Timeout = 10 * time.Second // the machine may be busy
	}
	group, err := gather.New(g)
	must.NoError(t, err)
	var all []gather.Leaf
	for i, a := range addresses {
		name := fmt.Sprint(i)
		all = append(all, gather.Leaf{ID: name, Address: a, Shard: name})
	}
	group.Update(all)
	cfg.Group = group
	cfg.MaxAnswer, cfg.MaxDepth = orDefault(cfg.MaxAnswer, DefaultMaxAnswer), orDefault(cfg.MaxDepth, DefaultMaxDepth)
	if cfg.Merger == nil {
		cfg.Merger = lines{}
	}
	s := httptest.NewServer(&route{RouteConfig: cfg, self: "me", metrics: newMetrics()})
	t.Cleanup(group.Close)
	t.Cleanup(s.Close)
	return s
}

// get asks the root.
func get(t *testing.T, url string, head ...string) (code int, h http.Header, body string, trailer http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must.NoError(t, err)
	for i := 0; i < len(head); i += 2 {
		req.Header.Set(head[i], head[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	must.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	return resp.StatusCode, resp.Header, string(b), resp.Trailer
}

// What leaves can do to a root: each has a status, a coverage and an end.
func TestFaults(t *testing.T) {
	ok := leaf(t, says("ok"))
	fault := func(speak func(net.Conn)) string { return raw(t, speak) }
	for name, c := range map[string]struct {
		leaf   string
		code   int
		reason string
	}{
		"hangs":     {fault(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), 504, "timeout"},
		"trickles":  {leaf(t, func(w http.ResponseWriter, r *http.Request) { trickle(w, r) }), 504, "timeout"},
		"resets":    {fault(func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }), 502, "reset"},
		"closes":    {fault(func(net.Conn) {}), 502, "reset"},
		"cuts":      {fault(func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc") }), 502, "reset"},
		"500":       {leaf(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }), 502, "status"},
		"no HTTP":   {fault(func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n\r\n") }), 502, "garbage"},
		"huge head": {fault(func(c net.Conn) { _, _ = io.Copy(c, io.LimitReader(zeros{}, 1<<20)) }), 502, "garbage"},
		"1 GB":      {leaf(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, io.LimitReader(zeros{}, 1<<30)) }), 502, "toolarge"},
		"says 1 GB": {fault(func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\nabc")
			_, _ = io.Copy(io.Discard, c)
		}), 502, "toolarge"},
		"is not there": {"127.0.0.1:1", 502, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := front(t, RouteConfig{}, gather.Config{Timeout: 2 * time.Second, MaxPartial: 256 << 10}, ok, c.leaf)
			code, h, body, _ := get(t, s.URL)
			must.Eq(t, c.code, code, must.Sprint(body))
			must.Eq(t, "ok=1, total=2", h.Get(gather.CoverageHeader))
			must.Eq(t, "1;reason="+c.reason, h.Get(gather.MissingHeader))
			var said failure
			must.NoError(t, json.Unmarshal([]byte(body), &said))
			must.Eq(t, c.reason, string(said.Coverage.Missing[0].Reason))
			must.StrContains(t, said.Error, "1 of 2 leaves have answered")
			// And whoever is content with that gets it.
			code, h, body, _ = get(t, s.URL, CoverageWantedHeader, "0.5")
			must.Eq(t, 200, code)
			must.Eq(t, "ok\n", body)
			must.Eq(t, "ok=1, total=2", h.Get(gather.CoverageHeader))
		})
	}
}

func trickle(w http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		_, _ = io.WriteString(w, "x")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '0'
	}
	return len(b), nil
}

// What leaves are told, and what not.
func TestForwarded(t *testing.T) {
	got := make(chan *http.Request, 1)
	body := make(chan string, 1)
	l := leaf(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- r
		body <- string(b)
	})
	s := front(t, RouteConfig{}, gather.Config{}, l)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/a%2Fb/c?q=x%20y&z", strings.NewReader("the query"))
	must.NoError(t, err)
	for name, value := range map[string]string{
		"X-Own": "mine", "Range": "bytes=0-1", "If-None-Match": "x", "Connection": "X-Hop", "X-Hop": "no", "Te": "trailers", "Authorization": "Bearer user",
		traceParent: "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01", "Tracestate": "a=b", PathHeader: "other", DepthHeader: "2", gather.TimeoutHeader: "10s",
	} {
		req.Header.Set(name, value)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	must.Eq(t, 200, resp.StatusCode)
	r := <-got
	must.Eq(t, "the query", <-body)
	must.Eq(t, "POST", r.Method)
	must.Eq(t, "/a%2Fb/c?q=x%20y&z", r.RequestURI)
	must.Eq(t, l, r.Host)
	must.Eq(t, "mine", r.Header.Get("X-Own"))
	must.Eq(t, "Bearer user", r.Header.Get("Authorization"))
	must.Eq(t, "a=b", r.Header.Get("Tracestate"))
	must.Eq(t, "", r.Header.Get("X-Hop")+r.Header.Get("Te")+r.Header.Get("Range")+r.Header.Get("If-None-Match"))
	must.Eq(t, "other,me", r.Header.Get(PathHeader))
	must.Eq(t, "3", r.Header.Get(DepthHeader))
	must.Eq(t, "9.5s", r.Header.Get(gather.TimeoutHeader))
	must.Eq(t, "1", r.Header.Get(CoverageWantedHeader))
	must.StrHasPrefix(t, "00-0123456789abcdef0123456789abcdef-", r.Header.Get(traceParent))
	must.StrNotContains(t, r.Header.Get(traceParent)[36:], "0123456789abcdef")
}

// The head of an answer is that of the merged one.
func TestHead(t *testing.T) {
	s := front(t, RouteConfig{}, gather.Config{}, leaf(t, says("12345")), leaf(t, says("67890")))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, s.URL, nil)
	must.NoError(t, err)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	must.Eq(t, 200, resp.StatusCode)
	must.Eq(t, int64(12), resp.ContentLength)
	must.Eq(t, "ok=2, total=2", resp.Header.Get(gather.CoverageHeader))
}

// The token of this root is not for leaves, and they may want one of their own.
func TestTokens(t *testing.T) {
	got := make(chan string, 1)
	l := leaf(t, func(_ http.ResponseWriter, r *http.Request) { got <- r.Header.Get("Authorization") })
	for want, cfg := range map[string]RouteConfig{
		"Bearer client": {}, "": {Private: true}, "Bearer leaves": {Private: true, Token: "leaves"},
	} {
		s := front(t, cfg, gather.Config{}, l)
		code, _, _, _ := get(t, s.URL, "Authorization", "Bearer client")
		must.Eq(t, 200, code)
		must.Eq(t, want, <-got)
	}
}

func TestRefused(t *testing.T) {
	s := front(t, RouteConfig{MaxDepth: 3}, gather.Config{}, leaf(t, says("ok")))
	for name, c := range map[string]struct {
		head []string
		code int
		says string
	}{
		"loop":          {[]string{PathHeader, "a, me ,b"}, 508, `has passed this root, \"me\", already`},
		"too deep":      {[]string{DepthHeader, "3"}, 508, "has passed 3 roots, and 3 are the limit"},
		"depth":         {[]string{DepthHeader, "x"}, 400, `\"x\" is not a number`},
		"coverage":      {[]string{CoverageWantedHeader, "1.5"}, 400, `\"1.5\" is not more than 0`},
		"no coverage":   {[]string{CoverageWantedHeader, "0"}, 400, `\"0\" is not more than 0`},
		"NaN":           {[]string{CoverageWantedHeader, "NaN"}, 400, `\"NaN\" is not a number`},
		"timeout":       {[]string{gather.TimeoutHeader, "soon"}, 400, `\"soon\" is not a time`},
		"deadline over": {[]string{gather.TimeoutHeader, "0s"}, 504, "the deadline is over"},
		"grpc-timeout":  {[]string{grpcTimeout, "12x"}, 400, "is not a number of up to 8 digits with a unit"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, body, _ := get(t, s.URL, c.head...)
			must.Eq(t, c.code, code)
			must.StrContains(t, body, c.says)
		})
	}
	code, _, _, _ := get(t, s.URL, grpcTimeout, "9S")
	must.Eq(t, 200, code)
	none := front(t, RouteConfig{}, gather.Config{})
	code, h, body, _ := get(t, none.URL)
	must.Eq(t, 503, code)
	must.Eq(t, "1", h.Get("Retry-After"))
	must.StrContains(t, body, "no leaves")
}

// What all leaves refuse is the client's fault, and it hears so from them.
func TestLeavesRefuse(t *testing.T) {
	no := leaf(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, `{"title":"no such field"}`)
	})
	s := front(t, RouteConfig{}, gather.Config{}, no, no)
	code, h, body, _ := get(t, s.URL)
	must.Eq(t, 422, code)
	must.Eq(t, "application/problem+json", h.Get("Content-Type"))
	must.Eq(t, `{"title":"no such field"}`, body)
	must.Eq(t, "ok=0, total=2", h.Get(gather.CoverageHeader))
}

func TestTooManyAtOnce(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	l := leaf(t, func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-leave })
	s := front(t, RouteConfig{}, gather.Config{MaxInFlight: 1, Timeout: 10 * time.Second}, l)
	first := make(chan int, 1)
	go func() { code, _, _, _ := get(t, s.URL); first <- code }()
	<-entered
	code, h, _, _ := get(t, s.URL)
	must.Eq(t, 429, code)
	must.Eq(t, "1", h.Get("Retry-After"))
	close(leave)
	must.Eq(t, 200, <-first)
}

// A stream begins before all is there. Its coverage is in the trailer; if it is too little
// the answer does not end as a whole one does.
func TestStream(t *testing.T) {
	ok := leaf(t, says("ok"))
	hang := raw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	s := front(t, RouteConfig{Stream: true}, gather.Config{Timeout: 2 * time.Second}, ok, hang)
	code, h, body, trailer := get(t, s.URL, CoverageWantedHeader, "0.5")
	must.Eq(t, 200, code)
	must.Eq(t, "ok\n", body)
	must.Eq(t, "", h.Get(gather.CoverageHeader))
	must.Eq(t, "ok=1, total=2", trailer.Get(gather.CoverageHeader))
	must.StrHasPrefix(t, "1;reason=", trailer.Get(gather.MissingHeader))

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
	must.NoError(t, err)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	must.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	must.ErrorIs(t, err, io.ErrUnexpectedEOF)
	must.NoError(t, resp.Body.Close())
}

func TestMergeFails(t *testing.T) {
	ok := leaf(t, says("ok"))
	s := front(t, RouteConfig{Merger: lines{finish: fmt.Errorf("the merge container is down")}}, gather.Config{}, ok)
	code, _, body, _ := get(t, s.URL)
	must.Eq(t, 502, code)
	must.StrContains(t, body, "the merge container is down")
	s = front(t, RouteConfig{MaxAnswer: 5}, gather.Config{}, ok, ok)
	code, _, body, _ = get(t, s.URL)
	must.Eq(t, 502, code)
	must.StrContains(t, body, "too large: 5 bytes are the limit")
}

// The client leaves, and so do those who work for it.
func TestClientGone(t *testing.T) {
	entered, left := make(chan struct{}), make(chan struct{})
	l := leaf(t, func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		close(left)
	})
	s := front(t, RouteConfig{}, gather.Config{Timeout: time.Minute}, l)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	must.NoError(t, err)
	go func() { <-entered; cancel() }()
	_, err = (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	must.ErrorIs(t, err, context.Canceled)
	<-left
}

// A tree: the root of roots counts the leaves, and a loop ends.
func TestTree(t *testing.T) {
	a, b, c := leaf(t, says("a")), leaf(t, says("b")), leaf(t, says("c"))
	gone := "127.0.0.1:1"
	left := front(t, RouteConfig{}, gather.Config{MinCoverage: 0.1}, a, b, gone)
	right := front(t, RouteConfig{}, gather.Config{}, c)
	host := func(s *httptest.Server) string { u, err := url.Parse(s.URL); must.NoError(t, err); return u.Host }
	group, err := gather.New(gather.Config{})
	must.NoError(t, err)
	defer group.Close()
	group.Update([]gather.Leaf{{ID: "l", Address: host(left), Shard: "l"}, {ID: "r", Address: host(right), Shard: "r"}})
	top := httptest.NewServer(&route{RouteConfig: RouteConfig{Group: group, Merger: lines{}, MaxAnswer: 1000, MaxDepth: 8}, self: "top", metrics: newMetrics()})
	defer top.Close()
	code, h, body, _ := get(t, top.URL)
	must.Eq(t, 502, code)
	must.Eq(t, "ok=3, total=4", h.Get(gather.CoverageHeader))
	must.StrContains(t, body, `"reason":"below"`)
	code, h, body, _ = get(t, top.URL, CoverageWantedHeader, "0.7")
	must.Eq(t, 200, code)
	must.Eq(t, "ok=3, total=4", h.Get(gather.CoverageHeader))
	for _, text := range []string{"a", "b", "c"} {
		must.StrContains(t, body, text)
	}
}
