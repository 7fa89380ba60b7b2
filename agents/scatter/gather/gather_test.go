package gather

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/merge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// leafFunc is what a leaf does when it is asked the nth time, from 1.
type leafFunc func(req *http.Request, n int) (*http.Response, error)

// fleet is leaves in memory.
type fleet struct {
	mu     sync.Mutex
	leaves map[string]leafFunc // by address
	asked  map[string]int
	order  []string // addresses as they were asked
	heads  []http.Header
}

func (f *fleet) RoundTrip(req *http.Request) (*http.Response, error) {
	f.mu.Lock()
	f.asked[req.URL.Host]++
	n := f.asked[req.URL.Host]
	f.order = append(f.order, req.URL.Host)
	f.heads = append(f.heads, req.Header)
	do := f.leaves[req.URL.Host]
	f.mu.Unlock()
	if do == nil {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	return do(req, n)
}

func (f *fleet) total() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.asked {
		n += k
	}
	return n
}

// say answers after a time.
func say(after time.Duration, status int, body string, head ...string) leafFunc {
	return func(req *http.Request, _ int) (*http.Response, error) {
		if err := pause(req.Context(), after); err != nil {
			return nil, err
		}
		h := http.Header{}
		for i := 0; i < len(head); i += 2 {
			h.Set(head[i], head[i+1])
		}
		return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: h, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body))}, nil
	}
}

func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func fail(err error) leafFunc {
	return func(*http.Request, int) (*http.Response, error) { return nil, err }
}

// nth does another thing each time, and the last one from then on.
func nth(all ...leafFunc) leafFunc {
	return func(req *http.Request, n int) (*http.Response, error) { return all[min(n, len(all))-1](req, n) }
}

// endless answers with bytes that never end.
func endless(pause time.Duration) leafFunc {
	return func(req *http.Request, _ int) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: -1, Body: io.NopCloser(&trickle{req.Context(), pause})}, nil
	}
}

type trickle struct {
	ctx   context.Context
	pause time.Duration
}

func (r *trickle) Read(b []byte) (int, error) {
	if err := pause(r.ctx, r.pause); err != nil {
		return 0, err
	}
	return len(b[:min(len(b), 1000)]), nil
}

// list is a merge that keeps what it gets.
type list struct {
	parts             []string
	finished, aborted bool
	err               error
}

func (l *list) Add(p merge.Partial) error {
	if l.err != nil {
		return l.err
	}
	if bytes.HasPrefix(p.Body, []byte("garbage")) {
		return fmt.Errorf("%w: it says so", merge.ErrGarbage)
	}
	l.parts = append(l.parts, p.Shard+"="+string(p.Body))
	return nil
}
func (l *list) Finish() error { l.finished = true; return nil }
func (l *list) Abort()        { l.aborted = true }

// rig is a group with a fleet; leaves are named "shard/replica".
type rig struct {
	*Group
	*fleet
	t *testing.T
}

func newRig(t *testing.T, cfg Config, leaves map[string]leafFunc) *rig {
	t.Helper()
	f := &fleet{leaves: leaves, asked: map[string]int{}}
	cfg.Name, cfg.Transport = "svc", f
	g, err := New(cfg)
	must.NoError(t, err)
	r := &rig{g, f, t}
	r.update()
	return r
}

func (r *rig) update() {
	var all []Leaf
	for address := range r.fleet.leaves {
		shard, _, _ := strings.Cut(address, "/")
		all = append(all, Leaf{ID: address, Address: address, Shard: shard})
	}
	r.Update(all)
}

// get gathers.
func (r *rig) get(ctx context.Context, change ...func(*Request)) (Coverage, *list, error) {
	r.t.Helper()
	req := &Request{Method: "GET", URL: &url.URL{Path: "/x"}, Header: http.Header{}, Again: true}
	for _, c := range change {
		c(req)
	}
	l := &list{}
	c, err := r.Gather(ctx, req, func(context.Context, int) (merge.Merge, error) { return l, nil })
	must.Eq(r.t, err == nil, l.finished)
	slices.Sort(l.parts)
	return c, l, err
}

// reasons are those of what is missing, in a line.
func reasons(c Coverage) string {
	var all []string
	for _, m := range c.Missing {
		all = append(all, m.Shard+":"+string(m.Reason))
	}
	return strings.Join(all, " ")
}

func TestCoverage(t *testing.T) {
	ok := say(0, 200, "ok")
	for name, c := range map[string]struct {
		cfg      Config
		leaves   map[string]leafFunc
		change   func(*Request)
		ok, of   int
		missing  string
		took     time.Duration
		wantErr  bool
		asked    int
		refusal  int
		nothing  error
		complete string
	}{
		"all": {leaves: map[string]leafFunc{"1": ok, "2": ok, "10": ok}, ok: 3, of: 3, asked: 3, complete: "10=ok 1=ok 2=ok"},
		"one hangs": {leaves: map[string]leafFunc{"1": ok, "2": say(time.Hour, 200, "")}, ok: 1, of: 2, missing: "2:timeout",
			took: 950 * time.Millisecond, wantErr: true, asked: 2},
		"one hangs, and may": {leaves: map[string]leafFunc{"1": ok, "2": say(time.Hour, 200, "")}, change: func(r *Request) { r.MinCoverage = 0.5 },
			ok: 1, of: 2, missing: "2:skipped", took: 190 * time.Millisecond, asked: 2},
		"a shorter deadline": {leaves: map[string]leafFunc{"1": ok, "2": say(time.Hour, 200, "")}, change: func(r *Request) { r.Timeout = 100 * time.Millisecond },
			ok: 1, of: 2, missing: "2:timeout", took: 95 * time.Millisecond, wantErr: true, asked: 2},
		"a longer deadline than is possible": {cfg: Config{MaxTimeout: 2 * time.Second}, leaves: map[string]leafFunc{"1": say(time.Hour, 200, "")},
			change: func(r *Request) { r.Timeout = time.Hour }, of: 1, missing: "1:timeout", took: 1900 * time.Millisecond, wantErr: true, asked: 1},
		"a late one is waited for": {leaves: map[string]leafFunc{"1": ok, "2": say(150*time.Millisecond, 200, "late")}, change: func(r *Request) { r.MinCoverage = 0.5 },
			ok: 2, of: 2, took: 150 * time.Millisecond, asked: 2, complete: "1=ok 2=late"},
		"trickles": {leaves: map[string]leafFunc{"1": ok, "2": endless(100 * time.Millisecond)}, ok: 1, of: 2, missing: "2:timeout",
			took: 950 * time.Millisecond, wantErr: true, asked: 2},
		"never ends":    {leaves: map[string]leafFunc{"1": ok, "2": endless(0)}, ok: 1, of: 2, missing: "2:toolarge", wantErr: true, asked: 2},
		"resets":        {leaves: map[string]leafFunc{"1": ok, "2": fail(io.ErrUnexpectedEOF)}, ok: 1, of: 2, missing: "2:reset", wantErr: true, asked: 2},
		"refuses":       {leaves: map[string]leafFunc{"1": ok, "2": nil}, ok: 1, of: 2, missing: "2:refused", wantErr: true, asked: 2},
		"answers 500":   {leaves: map[string]leafFunc{"1": ok, "2": say(0, 500, "")}, ok: 1, of: 2, missing: "2:status", wantErr: true, asked: 2},
		"no HTTP":       {leaves: map[string]leafFunc{"1": ok, "2": fail(errors.New("malformed HTTP response"))}, ok: 1, of: 2, missing: "2:garbage", wantErr: true, asked: 2},
		"garbage":       {leaves: map[string]leafFunc{"1": ok, "2": say(0, 200, "garbage")}, ok: 1, of: 2, missing: "2:garbage", wantErr: true, asked: 2},
		"all refuse it": {leaves: map[string]leafFunc{"1": say(0, 400, "no"), "2": say(0, 400, "no")}, of: 2, missing: "1:status 2:status", wantErr: true, asked: 2, refusal: 400},
		"another replica after a failure": {leaves: map[string]leafFunc{"1/a": nth(say(0, 503, "")), "1/b": nth(say(0, 503, ""), ok)},
			of: 1, missing: "1:status", wantErr: true, asked: 2},
		"the other replica is well": {leaves: map[string]leafFunc{"1/a": ok, "1/b": fail(io.EOF)}, ok: 1, of: 1, complete: "1=ok"},
		"what is not idempotent is asked once": {leaves: map[string]leafFunc{"1/a": say(0, 503, ""), "1/b": say(0, 503, "")}, change: func(r *Request) { r.Again = false },
			of: 1, missing: "1:status", wantErr: true, asked: 1},
		"unless it was not asked at all": {leaves: map[string]leafFunc{"1/a": nil, "1/b": nil}, change: func(r *Request) { r.Again = false },
			of: 1, missing: "1:refused", wantErr: true, asked: 2},
		"no retries": {cfg: Config{RetryBudget: -1, HedgeQuantile: -1}, leaves: map[string]leafFunc{"1/a": fail(io.EOF), "1/b": fail(io.EOF)},
			of: 1, missing: "1:reset", wantErr: true, asked: 1},
		"nobody": {nothing: ErrNoLeaves},
		"a parent": {leaves: map[string]leafFunc{"1": ok, "2": say(0, 200, "sub", CoverageHeader, "ok=7, total=8", MissingHeader, "x;reason=timeout")},
			ok: 8, of: 9, missing: "2:below", wantErr: true, asked: 2},
		"a parent, and it may": {leaves: map[string]leafFunc{"1": ok, "2": say(0, 200, "sub", CoverageHeader, "ok=7, total=8")}, change: func(r *Request) { r.MinCoverage = 0.8 },
			ok: 8, of: 9, missing: "2:below", asked: 2, complete: "1=ok 2=sub"},
		"a parent that boasts": {leaves: map[string]leafFunc{"1": say(0, 200, "x", CoverageHeader, "ok=9, total=8")}, ok: 1, of: 1, asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, c.cfg, c.leaves)
				defer r.Close()
				if c.change == nil {
					c.change = func(*Request) {}
				}
				begin := time.Now()
				got, merged, err := r.get(t.Context(), c.change)
				took := time.Since(begin)
				if c.nothing != nil {
					must.ErrorIs(t, err, c.nothing)
					return
				}
				var short *ShortError
				must.Eq(t, c.wantErr, errors.As(err, &short), must.Sprint(err))
				must.Eq(t, c.wantErr, merged.aborted)
				must.Eq(t, c.ok, got.OK)
				must.Eq(t, c.of, got.Total)
				must.Eq(t, c.missing, reasons(got))
				must.Eq(t, c.took, took)
				if c.asked > 0 {
					must.Eq(t, c.asked, r.total())
				}
				if c.complete != "" {
					must.Eq(t, c.complete, strings.Join(merged.parts, " "))
				}
				if c.refusal != 0 {
					must.Eq(t, c.refusal, short.Answer.Status)
				}
			})
		})
	}
}

// When a parent that said how many leaves it has is gone, all of them are missing.
func TestCoverage_ParentGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, map[string]leafFunc{
			"1": say(0, 200, "x"), "2": nth(say(0, 200, "y", CoverageHeader, "ok=8, total=8"), say(0, 503, "")),
		})
		defer r.Close()
		c, _, err := r.get(t.Context())
		must.NoError(t, err)
		must.Eq(t, 9, c.OK)
		must.True(t, c.Whole())
		c, _, err = r.get(t.Context())
		must.Error(t, err)
		must.Eq(t, 1, c.OK)
		must.Eq(t, 9, c.Total)
	})
}

// warm lets the group know how fast leaves are.
func (r *rig) warm(n int) {
	for range n {
		_, _, err := r.get(context.Background())
		must.NoError(r.t, err)
	}
}

func TestHedge(t *testing.T) {
	fast := func(req *http.Request, n int) (*http.Response, error) {
		return say(10*time.Millisecond, 200, "fast")(req, n)
	}
	slowAfter := func(k int) leafFunc {
		return func(req *http.Request, n int) (*http.Response, error) {
			if n > k {
				return say(500*time.Millisecond, 200, "slow")(req, n)
			}
			return fast(req, n)
		}
	}
	t.Run("the other one wins", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, Config{}, map[string]leafFunc{"1/a": fast, "1/b": fast})
			defer r.Close()
			r.warm(400)
			// From now on one of them is slow; which one is asked first is chance.
			r.fleet.mu.Lock()
			r.fleet.leaves["1/a"] = slowAfter(0)
			r.fleet.mu.Unlock()
			before := r.total()
			for range 10 {
				begin := time.Now()
				_, m, err := r.get(t.Context())
				must.NoError(t, err)
				must.Eq(t, []string{"1=fast"}, m.parts)
				must.Less(t, 25*time.Millisecond, time.Since(begin))
			}
			won := r.counts.hedgeWon.Load()
			must.Eq(t, won, r.counts.hedged.Load())
			must.Eq(t, 10+int(won), r.total()-before)
		})
	})
	t.Run("budget", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, Config{}, map[string]leafFunc{"1/a": fast, "1/b": fast})
			defer r.Close()
			r.warm(200)
			tokens := r.hedges.tokens
			r.fleet.mu.Lock()
			r.fleet.leaves["1/a"], r.fleet.leaves["1/b"] = slowAfter(0), slowAfter(0)
			r.fleet.mu.Unlock()
			const n = 200
			for range n {
				_, _, err := r.get(t.Context())
				must.NoError(t, err)
			}
			must.LessEq(t, uint64(tokens+0.05*n), r.counts.hedged.Load())
			must.Positive(t, r.counts.hedged.Load())
		})
	})
	t.Run("alone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, Config{}, map[string]leafFunc{"1": fast})
			defer r.Close()
			r.warm(100)
			r.fleet.mu.Lock()
			r.fleet.leaves["1"] = slowAfter(0)
			r.fleet.mu.Unlock()
			_, _, err := r.get(t.Context())
			must.NoError(t, err)
			must.Eq(t, 0, r.counts.hedged.Load())
			must.Eq(t, 101, r.total())
		})
	})
	t.Run("both fail", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, Config{}, map[string]leafFunc{"1/a": fast, "1/b": fast})
			defer r.Close()
			r.warm(100)
			r.fleet.mu.Lock()
			r.fleet.leaves["1/a"], r.fleet.leaves["1/b"] = say(time.Hour, 200, ""), say(time.Hour, 200, "")
			r.fleet.mu.Unlock()
			begin := time.Now()
			c, _, err := r.get(t.Context())
			must.Error(t, err)
			must.Eq(t, "1:timeout", reasons(c))
			must.Eq(t, 950*time.Millisecond, time.Since(begin))
		})
	})
}

// A leaf that fails again and again is left alone for a while, and then tried again.
func TestEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, map[string]leafFunc{"1/a": fail(io.EOF), "1/b": say(10*time.Millisecond, 200, "b"), "1/c": say(10*time.Millisecond, 200, "c")})
		defer r.Close()
		bad := func() int { r.fleet.mu.Lock(); defer r.fleet.mu.Unlock(); return r.asked["1/a"] }
		for range 100 {
			_, _, err := r.get(t.Context())
			must.NoError(t, err)
			time.Sleep(5 * time.Millisecond) // on the bubble's clock
		}
		must.Eq(t, ejectAfter, bad())
		must.Eq(t, 1, r.counts.ejected.Load())
		time.Sleep(firstEjection)
		for range 100 {
			_, _, err := r.get(t.Context())
			must.NoError(t, err)
		}
		must.Eq(t, ejectAfter+1, bad()) // one more failure is enough
		// When it is well again it is asked as often as the others.
		r.fleet.mu.Lock()
		r.fleet.leaves["1/a"] = say(10*time.Millisecond, 200, "a")
		r.fleet.mu.Unlock()
		time.Sleep(2 * firstEjection)
		for range 300 {
			_, _, err := r.get(t.Context())
			must.NoError(t, err)
		}
		must.Greater(t, ejectAfter+50, bad())
	})
}

// When all of them fail it is not believed that all are at fault.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, map[string]leafFunc{"1/a": fail(io.EOF), "1/b": fail(io.EOF)})
		defer r.Close()
		for range 50 {
			_, _, err := r.get(t.Context())
			must.Error(t, err)
			time.Sleep(time.Millisecond)
		}
		r.fleet.mu.Lock()
		r.fleet.leaves["1/a"], r.fleet.leaves["1/b"] = say(0, 200, "a"), say(0, 200, "b")
		r.fleet.mu.Unlock()
		_, _, err := r.get(t.Context())
		must.NoError(t, err)
	})
}

func TestShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{MaxInFlight: 2}, map[string]leafFunc{"1": say(100*time.Millisecond, 200, "x")})
		defer r.Close()
		errs := make(chan error, 3)
		for range 3 {
			go func() { _, _, err := r.get(t.Context()); errs <- err }()
		}
		must.ErrorIs(t, <-errs, ErrShed)
		must.NoError(t, <-errs)
		must.NoError(t, <-errs)
	})
}

// A client that leaves ends everything, and no leaf is blamed for it.
func TestClientGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, map[string]leafFunc{"1": say(0, 200, "x"), "2": say(time.Hour, 200, "x")})
		defer r.Close()
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		time.AfterFunc(10*time.Millisecond, func() { cancel(gone) })
		begin := time.Now()
		_, m, err := r.get(ctx)
		must.ErrorIs(t, err, gone)
		must.True(t, m.aborted)
		must.Eq(t, 10*time.Millisecond, time.Since(begin))
		r.work.Wait()
		for _, l := range r.Group.leaves {
			must.Eq(t, 0, l.failed.Load())
			must.Eq(t, 0, l.inFlight.Load())
		}
	})
}

// Answers wait for memory, however large and many they are, and all of it is given back.
func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leaves := map[string]leafFunc{}
		body := strings.Repeat("x", 1<<20)
		for i := range 50 {
			leaves[fmt.Sprint(i)] = say(0, 200, body)
		}
		leaves["50"] = endless(0)
		r := newRig(t, Config{MaxPartial: 2 << 20, Memory: 4 << 20, MinCoverage: 0.9}, leaves)
		defer r.Close()
		c, m, err := r.get(t.Context())
		must.NoError(t, err)
		must.Eq(t, 50, c.OK)
		must.Len(t, 50, m.parts)
		r.work.Wait()
		must.True(t, r.larges.TryAcquire(2<<20))
		must.True(t, r.smalls.TryAcquire(4<<20/2/small))
	})
}

// An error of the merge is the request's end.
func TestMergeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, map[string]leafFunc{"1": say(0, 200, "x"), "2": say(time.Hour, 200, "y")})
		defer r.Close()
		broken := errors.New("broken")
		l := &list{err: broken}
		_, err := r.Gather(t.Context(), &Request{Method: "GET", URL: &url.URL{Path: "/"}}, func(context.Context, int) (merge.Merge, error) { return l, nil })
		must.ErrorIs(t, err, broken)
		must.True(t, l.aborted)
		_, err = r.Gather(t.Context(), &Request{Method: "GET", URL: &url.URL{Path: "/"}}, func(context.Context, int) (merge.Merge, error) { return nil, broken })
		must.ErrorIs(t, err, broken)
	})
}
