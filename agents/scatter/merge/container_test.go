package merge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// program is a merge container that notes what it is asked. The answer to finish are the
// bodies of the parts, in order.
type program struct {
	mu       sync.Mutex
	calls    []string // "POST /r1 3 parts"
	parts    map[string][]Part
	requests []*http.Request

	conns   map[net.Conn]bool
	deleted chan string                                               // paths
	special func(w http.ResponseWriter, r *http.Request) (taken bool) // if set it goes first
}

func (p *program) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller has gone
	}
	p.note(r, body)
	if p.special != nil && p.special(w, r) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	id := strings.TrimSuffix(r.URL.Path, "/finish")
	switch {
	case r.Method == http.MethodDelete:
		delete(p.parts, id)
		p.deleted <- r.URL.Path
	case id != r.URL.Path:
		w.Header().Set("Content-Type", "text/merged")
		for _, part := range p.parts[id] {
			_, _ = w.Write(part.Body)
		}
	}
}

func (p *program) note(r *http.Request, body []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	parts, err := readParts(body, ReaderConfig{})
	call := fmt.Sprintf("%s %s %d parts", r.Method, r.URL.Path, len(parts))
	if err != nil {
		call += ": " + err.Error()
	}
	p.calls = append(p.calls, call)
	p.parts[r.URL.Path] = append(p.parts[r.URL.Path], parts...)
	p.requests = append(p.requests, r)
}

func (p *program) called() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.calls...)
}

// run serves the program, and returns a Container that calls it.
func (p *program) run(t *testing.T, cfg ContainerConfig) *Container {
	t.Helper()
	p.parts, p.conns, p.deleted = map[string][]Part{}, map[net.Conn]bool{}, make(chan string, 1000)
	srv := httptest.NewUnstartedServer(p)
	srv.Config.ConnState = func(c net.Conn, s http.ConnState) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if s == http.StateNew {
			p.conns[c] = true
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	cfg.URL = srv.URL + cfg.URL
	c := must1(NewContainer(cfg))
	t.Cleanup(func() { must.NoError(t, c.Close()) })
	return c
}

func TestContainer(t *testing.T) {
	p := &program{}
	c := p.run(t, ContainerConfig{URL: "/merge/"})
	w := newAnswer()
	merge, err := c.Begin(t.Context(), requestFor("/search?q=a%20b"), w)
	must.NoError(t, err)
	must.NoError(t, merge.Add(in("2", "two\n")))
	must.NoError(t, merge.Add(Partial{Shard: "1", Header: http.Header{"Content-Type": {"x/\xff"}}, Body: []byte("one")}))
	must.SliceEmpty(t, p.called())
	must.NoError(t, merge.Finish())
	must.Eq(t, []string{"POST /merge/r1 2 parts", "POST /merge/r1/finish 0 parts"}, p.called())
	must.Eq(t, "two\none", w.body.String())
	must.Eq(t, "text/merged", w.contentType())
	must.Eq(t, 200, merge.(WithStatus).Status())
	must.SliceEmpty(t, merge.(WithGarbage).Garbage())
	must.Eq(t, Part{"2", 200, "text/x-2", []byte("two\n")}, p.parts["/merge/r1"][0])
	must.Eq(t, Part{"1", 200, "x/\ufffd", []byte("one")}, p.parts["/merge/r1"][1])
	for i, contentType := range []string{PartsType, ""} {
		h := p.requests[i].Header
		must.Eq(t, contentType, h.Get("Content-Type"))
		must.Eq(t, "GET /search?q=a%20b", h.Get("Scatter-Request"))
		must.Eq(t, "3", h.Get("Scatter-Shards"))
		must.Eq(t, "", h.Get("Accept-Encoding"))
	}
	merge.Abort() // it has ended already
	must.NoError(t, c.Close())
	must.Len(t, 2, p.called())
	must.MapLen(t, 1, p.conns)
	_, err = c.Begin(t.Context(), requestFor("/"), w)
	must.ErrorIs(t, err, ErrClosed)
}

func TestContainerOfNothing(t *testing.T) {
	p := &program{}
	c := p.run(t, ContainerConfig{})
	w := newAnswer()
	must.SliceEmpty(t, mergeAll(t, c, w))
	must.Eq(t, []string{"POST /r1/finish 0 parts"}, p.called())
	must.Eq(t, 0, w.writes)
	must.Eq(t, "text/merged", w.contentType())
}

func TestContainerFolds(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  ContainerConfig
		want []string
	}{
		"by number": {ContainerConfig{FoldParts: 2}, []string{"2 parts", "2 parts", "1 parts"}},
		"by bytes":  {ContainerConfig{FoldBytes: 2000}, []string{"2 parts", "2 parts", "1 parts"}},
		"each":      {ContainerConfig{FoldBytes: 1}, []string{"1 parts", "1 parts", "1 parts", "1 parts", "1 parts"}},
		"at once":   {ContainerConfig{}, []string{"5 parts"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &program{}
			var partials []Partial
			for i := range 5 {
				partials = append(partials, in(fmt.Sprint(i), strings.Repeat(fmt.Sprint(i), 1000)))
			}
			w := newAnswer()
			must.SliceEmpty(t, mergeAll(t, p.run(t, c.cfg), w, partials...))
			must.Eq(t, 5000, w.body.Len())
			must.Eq(t, "0123401234", w.body.String()[500:501]+w.body.String()[1500:1501]+w.body.String()[2500:2501]+
				w.body.String()[3500:3501]+w.body.String()[4500:4501]+"01234")
			calls := p.called()
			must.Eq(t, "POST /r1/finish 0 parts", calls[len(calls)-1])
			for i, want := range c.want {
				must.Eq(t, "POST /r1 "+want, calls[i])
			}
			must.Len(t, len(c.want)+1, calls)
		})
	}
}

func TestContainerConfig(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  ContainerConfig
		want string
	}{
		"no URL":   {ContainerConfig{}, "URL: it is missing; say where"},
		"no URL2":  {ContainerConfig{URL: "://"}, "URL: "},
		"scheme":   {ContainerConfig{URL: "localhost:9000"}, "is no HTTP address"},
		"https":    {ContainerConfig{URL: "https://localhost"}, "is no HTTP address"},
		"no host":  {ContainerConfig{URL: "http:///x"}, "is no HTTP address"},
		"query":    {ContainerConfig{URL: "http://h/?x=1"}, "a query or a fragment"},
		"fragment": {ContainerConfig{URL: "http://h/#x"}, "a query or a fragment"},
		"user":     {ContainerConfig{URL: "http://u:secret@h/"}, "http://u:xxxxx@h/"},
		"bytes":    {ContainerConfig{URL: "http://h", FoldBytes: -1}, "FoldBytes: -1 is negative; leave it out for 1048576"},
		"parts":    {ContainerConfig{URL: "http://h", FoldParts: -1}, "FoldParts: -1 is negative"},
		"conns":    {ContainerConfig{URL: "http://h", MaxConns: -1}, "MaxConns: -1 is negative"},
	} {
		_, err := NewContainer(c.cfg)
		must.ErrorContains(t, err, c.want, must.Sprint(name))
	}
	c := must1(NewContainer(ContainerConfig{URL: "http://h"}))
	for _, id := range []string{"", "a/b", "..", "a b", "ä", "a?"} {
		_, err := c.Begin(t.Context(), Request{ID: id, HTTP: requestFor("/").HTTP}, newAnswer())
		must.ErrorContains(t, err, "not of letters and digits", must.Sprint(id))
	}
	_, err := c.Begin(t.Context(), Request{ID: "a"}, newAnswer())
	must.ErrorContains(t, err, "request is missing")
}

func TestContainerGarbage(t *testing.T) {
	p := &program{}
	p.special = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/finish") {
			return false
		}
		w.WriteHeader(http.StatusUnprocessableEntity)
		p.mu.Lock()
		defer p.mu.Unlock()
		names := []string{}
		for _, part := range p.parts[r.URL.Path] {
			if string(part.Body) == "bad" {
				names = append(names, part.Shard)
			}
		}
		must.NoError(t, json.NewEncoder(w).Encode(map[string]any{"garbage": names, "why": "x"}))
		return true
	}
	c := p.run(t, ContainerConfig{FoldParts: 2})
	merge, err := c.Begin(t.Context(), requestFor("/"), newAnswer())
	must.NoError(t, err)
	for _, partial := range []Partial{in("10", "bad"), in("1", "good"), in("9", "bad")} {
		must.NoError(t, merge.Add(partial))
	}
	must.NoError(t, merge.Finish())
	must.Eq(t, []string{"9", "10"}, merge.(WithGarbage).Garbage())

	long := in("1", "x")
	long.Header = http.Header{"Content-Type": {strings.Repeat("x", 5000)}}
	must.Eq(t, []string{"1"}, mergeAll(t, c, newAnswer(), long))
}

// finishWith is a special that answers finish.
func finishWith(answer http.HandlerFunc) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/finish") {
			answer(w, r)
			return true
		}
		return false
	}
}

func TestContainerAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		status int
		header http.Header // a part of it; no values: not there
		body   string
	}{
		"status and headers": {
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["X-Two"] = []string{"a", "b"}
				w.Header().Set("Connection", "X-Hop")
				w.Header().Set("X-Hop", "1")
				w.Header().Set("Keep-Alive", "timeout=5")
				w.Header().Set("Content-Encoding", "gzip")
				w.WriteHeader(http.StatusNotFound)
				_, _ = io.WriteString(w, "none")
			},
			404, http.Header{"X-Two": {"a", "b"}, "Connection": nil, "X-Hop": nil, "Keep-Alive": nil, "Content-Encoding": {"gzip"}, "Content-Length": {"4"}}, "none",
		},
		"redirection": {
			func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusSeeOther) },
			303, http.Header{"Location": {"/elsewhere"}}, "",
		},
		"no body": {
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Reason", "nothing there")
				w.WriteHeader(http.StatusNoContent)
			},
			204, http.Header{"X-Reason": {"nothing there"}}, "",
		},
		"error": {
			func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "it broke", http.StatusInternalServerError)
			},
			500, http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, "it broke\n",
		},
		"large": {
			func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(bytes.Repeat([]byte("0123456789"), 100_000))
			},
			200, http.Header{"Transfer-Encoding": nil}, strings.Repeat("0123456789", 100_000),
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := &program{special: finishWith(c.answer)}
			w := newAnswer()
			merge, err := p.run(t, ContainerConfig{}).Begin(t.Context(), requestFor("/"), w)
			must.NoError(t, err)
			must.NoError(t, merge.Add(in("1", "x")))
			must.NoError(t, merge.Finish())
			must.Eq(t, c.status, merge.(WithStatus).Status())
			must.Eq(t, c.body, w.body.String())
			for name, values := range c.header {
				must.Eq(t, values, w.header.Values(name), must.Sprint(name))
			}
		})
	}
}

// The answer is passed on as it comes, with its header and status first.
func TestContainerStreams(t *testing.T) {
	release := make(chan struct{})
	p := &program{special: finishWith(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "first")
		must.NoError(t, http.NewResponseController(w).Flush())
		<-release
		_, _ = io.WriteString(w, " second")
	})}
	w := &streamed{answer: newAnswer()}
	merge, err := p.run(t, ContainerConfig{}).Begin(t.Context(), requestFor("/"), w)
	must.NoError(t, err)
	w.first = func() {
		must.Eq(t, http.StatusAccepted, merge.(WithStatus).Status())
		close(release)
	}
	must.NoError(t, merge.Finish())
	must.Eq(t, "first second", w.body.String())
}

// streamed calls first after the first Write.
type streamed struct {
	*answer
	first func()
}

func (s *streamed) Write(b []byte) (int, error) {
	n, err := s.answer.Write(b)
	if s.writes == 1 {
		s.first()
	}
	return n, err
}

// hijack answers with bytes as they are, and closes the connection.
func hijack(t *testing.T, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		must.NoError(t, err)
		_, _ = io.WriteString(conn, text)
		_ = conn.Close()
	}
}

func status(code int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, text)
	}
}

func TestContainerFailures(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for name, c := range map[string]struct {
		parts, finish http.HandlerFunc
		want          string
		deleted       bool
	}{
		"refuses parts":      {status(500, "out of memory\n"), nil, `POST URL/r1: status 500 Internal Server Error: "out of memory"`, true},
		"long complaint":     {status(400, long), nil, `status 400 Bad Request: "` + long[:200] + `"`, true},
		"redirects parts":    {status(302, ""), nil, "POST URL/r1: status 302 Found", true},
		"422 of nothing":     {status(422, ""), nil, "422 without the shards that are garbage", true},
		"422 of no shard":    {status(422, `{"garbage":[]}`), nil, "it names no shard", true},
		"422 of another":     {status(422, `{"garbage":["7"]}`), nil, `it names shard "7", which no part was of`, true},
		"422 without end":    {status(422, strings.Repeat(" ", maxReport+1)), nil, "longer than 1048576 bytes", true},
		"422 cut off":        {hijack(t, "HTTP/1.1 422 X\r\nContent-Length: 9\r\n\r\n{"), nil, "read its answer: unexpected EOF", true},
		"crashes at parts":   {hijack(t, ""), nil, "POST URL/r1: no answer: EOF", true},
		"not HTTP":           {hijack(t, "hello\r\n\r\n"), nil, "malformed HTTP", true},
		"large headers":      {hijack(t, "HTTP/1.1 200 OK\r\nX: "+long+"\r\n\r\n"), nil, "server response headers exceeded", true},
		"switches parts":     {hijack(t, "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"), nil, "POST URL/r1: status 101", true},
		"crashes at finish":  {nil, hijack(t, ""), "POST URL/r1/finish: no answer: EOF", true},
		"crashes in answer":  {nil, hijack(t, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), "POST URL/r1/finish: read its answer: unexpected EOF", false},
		"crashes in a chunk": {nil, hijack(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), "finish: read its answer: unexpected EOF", false},
		"odd status":         {nil, hijack(t, "HTTP/1.1 700 X\r\nContent-Length: 3\r\n\r\nabc"), `finish: status 700 X: "abc"`, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := &program{}
			p.special = func(w http.ResponseWriter, r *http.Request) bool {
				answer := c.parts
				if strings.HasSuffix(r.URL.Path, "/finish") {
					answer = c.finish
				}
				if answer == nil || r.Method == http.MethodDelete {
					return false
				}
				answer(w, r)
				return true
			}
			container := p.run(t, ContainerConfig{})
			merge, err := container.Begin(t.Context(), requestFor("/"), newAnswer())
			must.NoError(t, err)
			must.NoError(t, merge.Add(in("1", "x")))
			err = merge.Finish()
			must.ErrorContains(t, err, strings.ReplaceAll(c.want, "URL", container.cfg.URL))
			must.ErrorContains(t, err, "merge container: ")
			must.False(t, errors.Is(err, ErrGarbage))
			merge.Abort()
			must.NoError(t, container.Close())
			must.Eq(t, c.deleted, len(p.deleted) == 1, must.Sprint(p.called()))
		})
	}
}

func TestContainerFailsInAdd(t *testing.T) {
	p := &program{special: func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusInternalServerError)
		}
		return r.Method == http.MethodPost
	}}
	c := p.run(t, ContainerConfig{FoldParts: 1})
	merge, err := c.Begin(t.Context(), requestFor("/"), newAnswer())
	must.NoError(t, err)
	must.ErrorContains(t, merge.Add(in("1", "x")), "status 500")
	merge.Abort()
	merge.Abort()
	must.NoError(t, c.Close())
	must.Eq(t, []string{"POST /r1 1 parts", "DELETE /r1 0 parts"}, p.called())
}

func TestContainerIsDown(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	address := "http://" + listener.Addr().String()
	must.NoError(t, listener.Close())
	c := must1(NewContainer(ContainerConfig{URL: address}))
	merge, err := c.Begin(t.Context(), requestFor("/"), newAnswer())
	must.NoError(t, err)
	err = merge.Finish()
	must.ErrorContains(t, err, "merge container: POST "+address+"/r1/finish: no answer: dial tcp")
	must.ErrorContains(t, err, "refused")
	must.NoError(t, c.Close())
}

// slow is a container that answers nothing but DELETE until its caller leaves.
func slow(_ http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodDelete {
		<-r.Context().Done()
	}
	return r.Method != http.MethodDelete
}

func TestContainerIsSlow(t *testing.T) {
	why := errors.New("the time of the request is over")
	p := &program{special: slow}
	c := p.run(t, ContainerConfig{FoldParts: 1})
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, why)
	defer cancel()
	merge, err := c.Begin(ctx, requestFor("/"), newAnswer())
	must.NoError(t, err)
	err = merge.Add(in("1", "x"))
	must.ErrorIs(t, err, why)
	must.ErrorContains(t, err, "POST "+c.cfg.URL+"/r1: no answer: the time")
	merge.Abort() // which has time of its own
	must.Eq(t, "/r1", <-p.deleted)
}

func TestContainerIsSlowInTheAnswer(t *testing.T) {
	p := &program{special: finishWith(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &streamed{answer: newAnswer(), first: cancel}
	merge, err := p.run(t, ContainerConfig{}).Begin(ctx, requestFor("/"), w)
	must.NoError(t, err)
	err = merge.Finish()
	must.ErrorIs(t, err, context.Canceled)
	must.ErrorContains(t, err, "read its answer")
	must.Eq(t, "first", w.body.String())
}

func TestContainerWriteFails(t *testing.T) {
	p := &program{}
	w := newAnswer()
	w.err = errors.New("broken")
	merge, err := p.run(t, ContainerConfig{}).Begin(t.Context(), requestFor("/"), w)
	must.NoError(t, err)
	must.NoError(t, merge.Add(in("1", "x")))
	must.ErrorContains(t, merge.Finish(), "write merged answer: broken")
}

// One that has not been told about a request is not told that it has been given up.
func TestContainerAbortUntold(t *testing.T) {
	p := &program{}
	c := p.run(t, ContainerConfig{})
	merge, err := c.Begin(t.Context(), requestFor("/"), newAnswer())
	must.NoError(t, err)
	must.NoError(t, merge.Add(in("1", "x")))
	merge.Abort()
	must.NoError(t, c.Close())
	must.SliceEmpty(t, p.called())
}

// Close waits for calls that give up, of which there are so many at most, and so long.
func TestContainerAborts(t *testing.T) {
	p := &program{special: func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete {
			<-r.Context().Done()
		}
		return true
	}}
	c := p.run(t, ContainerConfig{FoldParts: 1, MaxConns: 2 * maxAborts})
	var merges []Merge
	for range maxAborts + 10 {
		merge, err := c.Begin(t.Context(), requestFor("/"), newAnswer())
		must.NoError(t, err)
		must.NoError(t, merge.Add(in("1", "x")))
		merges = append(merges, merge)
	}
	begin := time.Now()
	for _, merge := range merges {
		merge.Abort()
	}
	must.Less(t, abortTime, time.Since(begin)) // they do not wait
	must.NoError(t, c.Close())
	must.GreaterEq(t, abortTime, time.Since(begin))
	deletes := 0
	for _, call := range p.called() {
		if strings.HasPrefix(call, "DELETE") {
			deletes++
		}
	}
	must.LessEq(t, maxAborts, deletes)
	must.Positive(t, deletes)

	merge, err := p.run(t, ContainerConfig{FoldParts: 1}).Begin(t.Context(), requestFor("/"), newAnswer())
	must.NoError(t, err)
	must.NoError(t, merge.Add(in("1", "x")))
	must.NoError(t, merge.(*fold).c.Close())
	merge.Abort() // too late
}

// Many requests share the connections.
func TestContainerConnections(t *testing.T) {
	p := &program{}
	c := p.run(t, ContainerConfig{FoldParts: 1, MaxConns: 2})
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			r, w := requestFor("/"), newAnswer()
			r.ID = fmt.Sprint("r", i)
			merge, err := c.Begin(t.Context(), r, w)
			if err == nil {
				err = errors.Join(merge.Add(in("1", fmt.Sprint(i))), merge.Add(in("2", "!")), merge.Finish())
			}
			if err != nil || w.body.String() != fmt.Sprint(i, "!") {
				t.Errorf("request %d: %q, %v", i, w.body.String(), err)
			}
		})
	}
	all.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	must.LessEq(t, 2, len(p.conns))
	must.Len(t, 60, p.calls)
}

// A container that answers before it has read the parts does not get those of the next
// call mixed up: run with the race detector.
func TestContainerAnswersEarly(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer func() { _ = conn.Close() }()
				if _, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				}
			})
		}
	})
	c := must1(NewContainer(ContainerConfig{URL: "http://" + listener.Addr().String(), FoldParts: 1}))
	merge, err := c.Begin(t.Context(), requestFor("/"), newAnswer())
	must.NoError(t, err)
	for range 5 {
		_ = merge.Add(in("1", strings.Repeat("x", 4<<20))) // it may fail, as the connection is reset
	}
	merge.Abort()
	must.NoError(t, c.Close())
	must.NoError(t, listener.Close())
	conns.Wait()
}
