package election

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
)

// state reads the record of an election.
func (f *fakeConsul) state(t *testing.T, name string) (k modelKey, r record) {
	t.Helper()
	k, ok := f.key("election/leader/" + name)
	must.True(t, ok)
	must.NoError(t, json.Unmarshal(k.value, &r))
	return k, r
}

// TestLossIsToldBeforeTheRelease: whatever ends a term in order, the lock is held until
// the application has stopped.
func TestLossIsToldBeforeTheRelease(t *testing.T) {
	const stopping = 700 * time.Millisecond
	ways := map[string]struct {
		end    func(t *testing.T, e *Elector, c *Candidate) error
		reason error
		stays  bool
	}{
		"resign":    {func(t *testing.T, _ *Elector, c *Candidate) error { return c.Resign(t.Context()) }, ErrResigned, true},
		"hand over": {func(t *testing.T, _ *Elector, c *Candidate) error { return c.HandOver(t.Context(), "b") }, ErrHandedOver, true},
		"leave":     {func(t *testing.T, _ *Elector, c *Candidate) error { return c.Leave(t.Context()) }, ErrLeft, false},
		"close":     {func(t *testing.T, e *Elector, _ *Candidate) error { return e.Close(t.Context()) }, ErrClosed, false},
		"lease":     {func(_ *testing.T, _ *Elector, c *Candidate) error { <-c.Done(); return nil }, ErrLeaseExpired, false},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fakeConsul) {
				a, _ := f.elector(t, Config{ID: "a"})
				b, _ := f.elector(t, Config{ID: "b"})
				f.free("jobs")
				var told atomic.Pointer[error]
				opts := Options{OnLoss: func(l *Leadership, err error) {
					told.Store(&err)
					must.False(t, l.Valid())
					time.Sleep(stopping)
				}}
				if name == "lease" {
					opts.Lease = time.Second
				}
				c := join(t, a, "jobs", opts)
				l := lead(t, c)
				cb := join(t, b, "jobs", Options{})
				time.Sleep(500 * time.Millisecond)
				done := make(chan error, 1)
				go func() { done <- way.end(t, a, c) }()
				<-l.Done()
				synctest.Wait()
				must.ErrorIs(t, *told.Load(), way.reason)
				must.ErrorIs(t, l.Err(), way.reason)
				time.Sleep(stopping - time.Millisecond)
				synctest.Wait()
				k, r := f.state(t, "jobs")
				must.Eq(t, l.Token(), k.modify) // nobody touched it
				must.Eq(t, stateHeld, r.State)
				must.Nil(t, cb.Leadership())

				before := b.clock.Now()
				must.NoError(t, <-done)
				must.Greater(t, l.Token(), lead(t, cb).Token())
				must.Less(t, 300*time.Millisecond, b.clock.Now()-before) // it need not wait for the window
				if way.stays {
					must.NoError(t, c.Err())
				} else {
					must.ErrorIs(t, c.Err(), way.reason)
				}
			})
		})
	}
}

// TestCallbacksInOrder: OnLoss waits for OnGain, and the release for both.
func TestCallbacksInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		e, _ := f.elector(t, Config{})
		f.free("jobs")
		var calls []string
		c := join(t, e, "jobs", Options{
			OnGain: func(*Leadership) { time.Sleep(time.Second); calls = append(calls, "gained") },
			OnLoss: func(*Leadership, error) { calls = append(calls, "lost") },
		})
		for range 3 {
			l := lead(t, c)
			before := e.clock.Now()
			must.NoError(t, c.Resign(t.Context()))
			must.GreaterEq(t, time.Second, e.clock.Now()-before)
			must.ErrorIs(t, l.Err(), ErrResigned)
		}
		must.Eq(t, []string{"gained", "lost", "gained", "lost", "gained", "lost"}, calls)
	})
}

func TestRun(t *testing.T) {
	start := func(t *testing.T, f *fakeConsul) (*Elector, *Candidate) {
		e, _ := f.elector(t, Config{ID: "a"})
		f.free("jobs")
		return e, join(t, e, "jobs", Options{})
	}
	t.Run("work returns", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fakeConsul) {
			_, c := start(t, f)
			failed := errors.New("disk is full")
			must.ErrorIs(t, c.Run(t.Context(), func(context.Context, *Leadership) error { return failed }), failed)
			_, r := f.state(t, "jobs")
			must.Eq(t, stateReleased, r.State)
			must.NoError(t, c.Err())
			must.NoError(t, c.Run(t.Context(), func(context.Context, *Leadership) error { return nil }))
		})
	})
	t.Run("next term", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fakeConsul) {
			_, c := start(t, f)
			var tokens []uint64
			must.NoError(t, c.Run(t.Context(), func(ctx context.Context, l *Leadership) error {
				tokens = append(tokens, l.Token())
				if len(tokens) == 3 {
					return nil
				}
				resigned := make(chan error, 1)
				go func() { resigned <- c.Resign(context.Background()) }()
				<-ctx.Done()
				must.ErrorIs(t, context.Cause(ctx), ErrResigned)
				time.Sleep(300 * time.Millisecond) // clean up
				synctest.Wait()
				k, _ := f.state(t, "jobs")
				must.Eq(t, l.Token(), k.modify) // held as long as it works
				must.Eq(t, 0, len(resigned))
				return context.Cause(ctx)
			}))
			must.Len(t, 3, tokens)
			must.Less(t, tokens[1], tokens[0])
			must.Less(t, tokens[2], tokens[1])
		})
	})
	t.Run("context ends", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fakeConsul) {
			_, c := start(t, f)
			ctx, cancel := context.WithCancel(t.Context())
			err := c.Run(ctx, func(ctx context.Context, _ *Leadership) error {
				cancel()
				<-ctx.Done()
				return nil
			})
			must.ErrorIs(t, err, context.Canceled)
			_, r := f.state(t, "jobs")
			must.Eq(t, stateReleased, r.State)
			must.NoError(t, c.Err()) // still a candidate
		})
	})
	t.Run("never leads", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fakeConsul) {
			_, c := start(t, f)
			lead(t, c)
			b, _ := f.elector(t, Config{ID: "b"})
			cb := join(t, b, "jobs", Options{})
			err := cb.Run(deadline(t, time.Second), func(context.Context, *Leadership) error { panic("two leaders") })
			must.ErrorIs(t, err, context.DeadlineExceeded)
		})
	})
	t.Run("left", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fakeConsul) {
			_, c := start(t, f)
			err := c.Run(t.Context(), func(ctx context.Context, _ *Leadership) error {
				go func() { _ = c.Leave(context.Background()) }()
				<-ctx.Done()
				return nil
			})
			must.ErrorIs(t, err, ErrLeft)
		})
	})
	t.Run("trust expires", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fakeConsul) {
			e, w := f.elector(t, Config{})
			f.free("jobs")
			c := join(t, e, "jobs", Options{})
			terms := 0
			must.NoError(t, c.Run(t.Context(), func(ctx context.Context, _ *Leadership) error {
				if terms++; terms == 2 {
					return nil
				}
				w.set(swallow)
				<-ctx.Done()
				must.ErrorIs(t, context.Cause(ctx), ErrTrustExpired)
				w.set(fine)
				return nil
			}))
			must.Eq(t, 2, terms)
		})
	})
}

func TestResignAndHandOver(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		a, _ := f.elector(t, Config{ID: "a"})
		b, _ := f.elector(t, Config{ID: "b"})
		c, _ := f.elector(t, Config{ID: "c"})
		f.free("jobs")
		ca := join(t, a, "jobs", Options{Priority: 1})
		lead(t, ca)
		cb := join(t, b, "jobs", Options{})
		cc := join(t, c, "jobs", Options{Priority: -1})
		time.Sleep(time.Second)

		must.ErrorIs(t, cb.Resign(t.Context()), ErrNotLeader)
		must.ErrorIs(t, cb.HandOver(t.Context(), "c"), ErrNotLeader)
		must.ErrorIs(t, ca.HandOver(t.Context(), "nobody"), ErrUnknownCandidate)
		must.ErrorIs(t, ca.HandOver(t.Context(), "a"), ErrUnknownCandidate)
		must.Error(t, ca.HandOver(t.Context(), "not an id"))
		must.True(t, ca.Leadership().Valid())

		must.NoError(t, ca.HandOver(t.Context(), "c")) // the least preferred
		must.Eq(t, "jobs", lead(t, cc).Election())
		must.NoError(t, cc.Resign(t.Context()))
		// The best one by priority handed over less than a second ago, so the middle one.
		must.True(t, lead(t, cb).Valid())
		must.NoError(t, cb.Resign(t.Context()))
		must.True(t, lead(t, ca).Valid())

		// Nobody else: whoever resigned takes it again.
		must.NoError(t, b.Close(t.Context()))
		must.NoError(t, c.Close(t.Context()))
		must.NoError(t, ca.Resign(t.Context()))
		before := a.clock.Now()
		lead(t, ca)
		must.Between(t, resignedWait-50*time.Millisecond, a.clock.Now()-before, resignedWait+50*time.Millisecond)
	})
}

// TestResignWithoutConsul: the term ends at once, and the release is tried on.
func TestResignWithoutConsul(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		e, w := f.elector(t, Config{Mode: Strict})
		f.free("jobs")
		c := join(t, e, "jobs", Options{})
		l := lead(t, c)
		w.set(swallow)
		must.ErrorIs(t, c.Resign(deadline(t, time.Second)), context.DeadlineExceeded)
		must.ErrorIs(t, l.Err(), ErrResigned)
		must.Nil(t, c.Leadership())
		time.Sleep(3 * time.Second)
		w.set(fine)
		time.Sleep(1500 * time.Millisecond)
		must.Greater(t, l.Token(), lead(t, c).Token())
		k, _ := f.state(t, "jobs")
		must.Eq(t, 2, k.lock)
	})
}

func TestLead(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		e, _ := f.elector(t, Config{})
		c := join(t, e, "jobs", Options{})
		_, err := c.Lead(deadline(t, 10*time.Millisecond))
		must.ErrorIs(t, err, context.DeadlineExceeded)
		must.StrContains(t, err.Error(), `election "jobs"`)
		must.Nil(t, c.Leadership())
		l := lead(t, c)
		same, err := c.Lead(t.Context())
		must.NoError(t, err)
		must.True(t, l == same && l == c.Leadership())
		_, err = e.Join("jobs", Options{})
		must.ErrorIs(t, err, ErrJoined)
		_, err = e.Join("bad name", Options{})
		var field *FieldError
		must.True(t, errors.As(err, &field))
		waiting := make(chan error, 1)
		d := join(t, e, "other", Options{})
		go func() { _, err := d.Lead(context.Background()); waiting <- err }()
		must.NoError(t, d.Leave(t.Context()))
		must.ErrorIs(t, <-waiting, ErrLeft)
		must.NoError(t, d.Leave(t.Context())) // again
		must.ErrorIs(t, d.Renew(), ErrLeft)
	})
}

// TestResignAfterLeave: the answer is always the same.
func TestResignAfterLeave(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		e, _ := f.elector(t, Config{})
		c := join(t, e, "jobs", Options{})
		must.NoError(t, c.Leave(t.Context()))
		for range 20 {
			must.ErrorIs(t, c.Resign(t.Context()), ErrLeft)
			must.ErrorIs(t, c.HandOver(t.Context(), "b"), ErrLeft)
		}
	})
}
