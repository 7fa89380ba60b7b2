package election

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"
)

// kind tells requests apart.
type kind int

const (
	kindRead  kind = iota // consistent
	kindWatch             // blocking
	kindTxn
	kindBeat    // heartbeat
	kindService // (de)registration
	kindSession
	kinds
)

func kindOf(req *http.Request) kind {
	path, query := req.URL.Path, req.URL.Query()
	switch {
	case strings.HasPrefix(path, "/v1/kv/") && query.Has("keys"):
		return kindRead
	case strings.HasPrefix(path, "/v1/kv/"):
		return kindWatch
	case path == "/v1/txn":
		return kindTxn
	case strings.HasPrefix(path, "/v1/agent/check/"):
		return kindBeat
	case strings.HasPrefix(path, "/v1/agent/service/"):
		return kindService
	default:
		return kindSession
	}
}

// fate is what becomes of a request.
type fate int

const (
	fine    fate = iota
	refuse       // at once
	swallow      // no answer, and nothing is done
	lose         // done, and no answer
)

// wire is a transport from one process to the fake Consul.
type wire struct {
	f *fakeConsul

	mu      sync.Mutex
	latency time.Duration // each way
	fates   [kinds]fate
	good    []time.Duration // when each consistent read that was answered was sent
	seen    [kinds]int
}

var errRefused = errors.New("connection refused")

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		_ = req.Body.Close()
	}
	k, ctx := kindOf(req), req.Context()
	w.mu.Lock()
	w.seen[k]++
	what, latency, sent := w.fates[k], w.latency, time.Since(w.f.since)
	w.mu.Unlock()
	if what == refuse {
		return nil, errRefused
	}
	if what == swallow {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	// Who gives up waiting does not stop what is on its way.
	answered := make(chan answer, 1)
	w.f.wg.Go(func() {
		time.Sleep(latency)
		answered <- w.f.handle(ctx, req.Method, req.URL.Path, req.URL.Query(), body)
	})
	var a answer
	select {
	case a = <-answered:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// A fault that began meanwhile breaks the connections that were open, too.
	w.mu.Lock()
	broken := w.fates[k]
	w.mu.Unlock()
	switch {
	case what == lose || broken == swallow || broken == lose:
		<-ctx.Done()
		return nil, ctx.Err()
	case broken == refuse:
		return nil, errRefused
	case !pause(ctx, latency):
		return nil, ctx.Err()
	}
	if k == kindRead && a.status < http.StatusInternalServerError {
		w.mu.Lock()
		w.good = append(w.good, sent)
		w.mu.Unlock()
	}
	return a.response(req), nil
}

// set gives requests of these kinds a fate, all kinds if none is named.
func (w *wire) set(f fate, only ...kind) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k := range kinds {
		if len(only) == 0 || slices.Contains(only, k) {
			w.fates[k] = f
		}
	}
}

// slow sets the latency of each way.
func (w *wire) slow(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latency = d
}

// lastRead is when the last consistent read that was answered was sent.
func (w *wire) lastRead() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.good[len(w.good)-1]
}

// sent is how many requests of a kind there were.
func (w *wire) sent(k kind) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[k]
}

// bubbleClock is the clock of trust in a bubble. It agrees with that of the fake.
type bubbleClock struct{ since time.Time }

func (c bubbleClock) Now() time.Duration { return time.Since(c.since) }

// bubble runs a test in a bubble, with a Consul.
func bubble(t *testing.T, test func(t *testing.T, f *fakeConsul)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeConsul()
		t.Cleanup(f.wg.Wait)
		time.Sleep(time.Hour) // no time that matters is zero
		test(t, f)
	})
}

// elector starts an Elector that is closed at the end of the test.
func (f *fakeConsul) elector(t *testing.T, cfg Config) (*Elector, *wire) {
	t.Helper()
	e, w := f.open(t, cfg)
	t.Cleanup(func() {
		w.set(fine)
		w.slow(time.Millisecond)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		must.NoError(t, e.Close(ctx))
	})
	return e, w
}

// free makes the key of an election as one that was released, so that nobody waits.
func (f *fakeConsul) free(name string) {
	f.do(func(m *model) { m.put("election/leader/"+name, record{State: stateReleased}.encode()) })
}

// join makes an Elector a candidate.
func join(t *testing.T, e *Elector, name string, opts Options) *Candidate {
	t.Helper()
	c, err := e.Join(name, opts)
	must.NoError(t, err)
	return c
}

// open starts an Elector that the test has to close.
func (f *fakeConsul) open(t *testing.T, cfg Config) (*Elector, *wire) {
	t.Helper()
	w := &wire{f: f, latency: time.Millisecond}
	cfg.Consul = &api.Config{Address: "consul.test:8500"}
	e, err := newElector(cfg, bubbleClock{f.since}, w)
	must.NoError(t, err)
	return e, w
}

// lead waits for a leadership.
func lead(t *testing.T, c *Candidate) *Leadership {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	l, err := c.Lead(ctx)
	must.NoError(t, err)
	return l
}

// deadline is a context for a call that has so long.
func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
