package server

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
)

func text(s string) *answered {
	a := &answered{status: 200, header: http.Header{}, most: 1 << 20, at: time.Now()}
	_, _ = a.Write([]byte(s))
	return a
}

func TestCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared(0, 1000)
		asked := 0
		ask := func(ctx context.Context) (*answered, error) {
			asked++
			select {
			case <-time.After(100 * time.Millisecond):
				return text("x"), nil
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		const n = 10
		got := make(chan error, n)
		impatient, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		for i := range n {
			ctx := t.Context()
			if i == 0 { // whoever comes first may leave
				ctx = impatient
			}
			go func() { _, err := s.get(ctx, key{1}, ask); got <- err }()
			synctest.Wait()
		}
		must.ErrorIs(t, <-got, context.DeadlineExceeded)
		for range n - 1 {
			must.NoError(t, <-got)
		}
		must.Eq(t, 1, asked)
		must.Eq(t, n-1, int(s.joins))
		// Nothing is kept; and when all have left nobody works on for them.
		ended := make(chan error, 1)
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			_, err := s.get(ctx, key{1}, func(ctx context.Context) (*answered, error) {
				<-ctx.Done()
				ended <- ctx.Err()
				return nil, ctx.Err()
			})
			got <- err
		}()
		synctest.Wait()
		leave()
		must.ErrorIs(t, <-got, context.Canceled)
		must.ErrorIs(t, <-ended, context.Canceled)
		s.work.Wait()
		must.MapEmpty(t, s.calls)
	})
}

func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared(time.Second, 10_000)
		asked := 0
		next := text("x")
		var fails error
		get := func(k byte) (string, error) {
			a, err := s.get(t.Context(), key{k}, func(context.Context) (*answered, error) {
				asked++
				if next != nil {
					next.at = time.Now()
				}
				return next, fails
			})
			if err != nil {
				return "", err
			}
			return a.body.String(), nil
		}
		for range 3 {
			body, err := get(1)
			must.NoError(t, err)
			must.Eq(t, "x", body)
		}
		must.Eq(t, 1, asked)
		time.Sleep(time.Second)
		_, _ = get(1)
		must.Eq(t, 2, asked)
		// An error is not kept, nor what is not whole, nor what is another status.
		next, fails = nil, errors.New("no")
		_, err := get(2)
		must.Error(t, err)
		next, fails = text("partial"), nil
		next.coverage = gather.Coverage{OK: 1, Total: 2}
		_, _ = get(2)
		next = text("created")
		next.status = 201
		_, _ = get(2)
		next = text("y")
		body, _ := get(2)
		must.Eq(t, "y", body)
		must.Eq(t, 6, asked)
		// The bound holds, and what is used stays.
		for k := range byte(40) {
			next = text(strings.Repeat("z", 1000))
			_, _ = get(100 + k)
			_, _ = get(2)
		}
		must.LessEq(t, 10_000, s.bytes)
		asked = 0
		_, _ = get(2)
		must.Eq(t, 0, asked)
		_, _ = get(100)
		must.Eq(t, 1, asked)
		next = text(strings.Repeat("z", 5000)) // too large to be kept
		_, _ = get(3)
		_, _ = get(3)
		must.Eq(t, 3, asked)
	})
}

func TestKey(t *testing.T) {
	k := func(change func(r *http.Request, req *gather.Request)) key {
		r := httptest.NewRequest(http.MethodGet, "/a?b=c", nil)
		req := &gather.Request{Header: http.Header{"Accept": {"x"}, "Authorization": {"one"}}}
		change(r, req)
		return keyOf(r, req)
	}
	base := k(func(*http.Request, *gather.Request) {})
	must.Eq(t, base, k(func(_ *http.Request, req *gather.Request) {
		req.Header.Set(traceParent, "x")
		req.Header.Set("User-Agent", "y")
	}))
	for name, change := range map[string]func(*http.Request, *gather.Request){
		"method":   func(r *http.Request, _ *gather.Request) { r.Method = "POST" },
		"path":     func(r *http.Request, _ *gather.Request) { r.URL.Path = "/ab" },
		"query":    func(r *http.Request, _ *gather.Request) { r.URL.RawQuery = "b=d" },
		"user":     func(_ *http.Request, req *gather.Request) { req.Header.Set("Authorization", "two") },
		"two":      func(_ *http.Request, req *gather.Request) { req.Header["Accept"] = []string{"x", ""} },
		"body":     func(_ *http.Request, req *gather.Request) { req.Body = []byte("x") },
		"coverage": func(_ *http.Request, req *gather.Request) { req.MinCoverage = 0.5 },
		"timeout":  func(_ *http.Request, req *gather.Request) { req.Timeout = time.Second },
	} {
		must.NotEq(t, base, k(change), must.Sprint(name))
	}
}
