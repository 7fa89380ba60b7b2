package reason

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// wire is a network in memory, so that a server and its client can live in the
// bubble of testing/synctest.
type wire struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newWire() *wire { return &wire{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (w *wire) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case w.conns <- theirs:
		return ours, nil
	case <-w.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.closed:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error   { w.once.Do(func() { close(w.closed) }); return nil }
func (w *wire) Addr() net.Addr { return &net.UnixAddr{Name: "wire"} }

// connect starts a server with this handler and returns a client of it. Both end
// with the test, or with the bubble in which it is called.
func connect(t *testing.T, h http.Handler) *Client {
	t.Helper()
	w := newWire()
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(w) }) // it says only that it was closed
	c, err := newClient(Config{Address: "http://nomad.test:4646"}, w.dial)
	must.NoError(t, err)
	t.Cleanup(func() {
		c.Close()
		_ = s.Close()
		wg.Wait()
	})
	return c
}

// fakeNomad answers for allocations, jobs and nodes, and serves an event stream
// like a Nomad server: a heartbeat at once and every 30 s.
type fakeNomad struct {
	mu      sync.Mutex
	answers map[string]any // by path; an int is a status code
	asked   map[string]int // requests by path
	index   uint64
	refuse  int // status of the event stream, 0 if it is served
	mute    bool
	quick   bool // the stream ends before its first frame
	hang    bool // the stream has no first frame
	opened  []*fakeStream
}

type fakeStream struct {
	query url.Values
	send  chan string
	gone  chan struct{} // closed when the client has left
	end   chan struct{} // closed to end it
}

func newFake() *fakeNomad {
	return &fakeNomad{answers: make(map[string]any), asked: make(map[string]int), index: 100}
}

func (n *fakeNomad) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	n.asked[r.URL.Path]++
	answer, ok := n.answers[r.URL.Path]
	n.mu.Unlock()
	if r.URL.Path == streamPath {
		n.stream(w, r)
		return
	}
	if !ok {
		answer = http.StatusNotFound
	}
	if code, ok := answer.(int); ok {
		http.Error(w, "no", code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // a client that has gone is no failure
}

func (n *fakeNomad) stream(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	refuse, mute, quick, hang := n.refuse, n.mute, n.quick, n.hang
	s := &fakeStream{query: r.URL.Query(), send: make(chan string), gone: make(chan struct{}), end: make(chan struct{})}
	n.opened = append(n.opened, s)
	n.mu.Unlock()
	defer close(s.gone)
	if refuse != 0 {
		http.Error(w, "Permission denied", refuse)
		return
	}
	flush := w.(http.Flusher).Flush
	w.WriteHeader(http.StatusOK)
	flush()
	if hang {
		<-r.Context().Done()
	}
	if hang || quick {
		return
	}
	beat := time.NewTicker(30 * time.Second)
	defer beat.Stop()
	line := "{}"
	for {
		_, _ = fmt.Fprintln(w, line) // the request's context tells if it has gone
		flush()
		select {
		case line = <-s.send:
		case <-beat.C:
			line = "{}"
			for mute {
				select {
				case <-r.Context().Done():
					return
				case <-s.end:
					return
				}
			}
		case <-r.Context().Done():
			return
		case <-s.end:
			return
		}
	}
}

// set changes an allocation on the server, and tells it to the last stream if
// told.
func (n *fakeNomad) set(t *testing.T, told bool, id string, change func(*api.Allocation)) {
	t.Helper()
	n.mu.Lock()
	n.index++
	a := &api.Allocation{ID: id, Namespace: "ns", DesiredStatus: api.AllocDesiredStatusRun}
	if old, ok := n.answers["/v1/allocation/"+id].(*api.Allocation); ok {
		*a = *old
	}
	a.ModifyIndex = n.index
	if change != nil {
		change(a)
	}
	n.answers["/v1/allocation/"+id] = a
	s := n.last()
	n.mu.Unlock()
	if told {
		s.send <- frame(t, a)
	}
}

// last is the stream opened last. n.mu is held.
func (n *fakeNomad) last() *fakeStream {
	if len(n.opened) == 0 {
		return nil
	}
	return n.opened[len(n.opened)-1]
}

// frame is what the stream tells of an allocation.
func frame(t *testing.T, a *api.Allocation) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{
		"Index": a.ModifyIndex,
		"Events": []any{map[string]any{
			"Topic": "Allocation", "Type": "PlanResult", "Key": a.ID, "Namespace": a.Namespace, "Index": a.ModifyIndex,
			"Payload": map[string]any{"Allocation": a},
		}},
	})
	must.NoError(t, err)
	return string(text)
}

// look runs fn with the fake locked.
func (n *fakeNomad) look(fn func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fn()
}

func (n *fakeNomad) count(path string) (c int) {
	n.look(func() { c = n.asked[path] })
	return c
}

// streams are those that were opened until now.
func (n *fakeNomad) streams() (all []*fakeStream) {
	n.look(func() { all = slices.Clone(n.opened) })
	return all
}

// topics are the allocations that a stream was asked for.
func (s *fakeStream) topics() string { return strings.Join(s.query["topic"], " ") }
