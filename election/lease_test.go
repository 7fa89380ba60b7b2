package election

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"
)

// TestTrustEndsAWindowAfterTheLastRead: the arithmetic of trust, to the nanosecond.
func TestTrustEndsAWindowAfterTheLastRead(t *testing.T) {
	cases := []struct {
		name  string
		cfg   Config
		opts  Options
		trust time.Duration
	}{
		{"balanced", Config{}, Options{}, 1350 * time.Millisecond},
		{"strict", Config{Mode: Strict}, Options{}, 9 * time.Second},
		{"fenced", Config{Mode: Fenced}, Options{}, 1350 * time.Millisecond},
		{"long TTL", Config{TTL: 20 * time.Second}, Options{}, 18 * time.Second},
		{"short TTL", Config{TTL: time.Second}, Options{}, 900 * time.Millisecond},
		{"long session", Config{Mode: Strict, SessionTTL: time.Minute}, Options{}, 54 * time.Second},
		{"grace", Config{}, Options{Grace: 500 * time.Millisecond}, 850 * time.Millisecond},
		{"grace, strict beside balanced", Config{}, Options{Mode: Strict, Grace: 4 * time.Second}, 5 * time.Second},
	}
	for _, c := range cases {
		for how, what := range map[string]fate{"refused": refuse, "swallowed": swallow, "answers lost": lose} {
			t.Run(c.name+"/"+how, func(t *testing.T) {
				bubble(t, func(t *testing.T, f *fakeConsul) {
					e, w := f.elector(t, c.cfg)
					w.slow(7 * time.Millisecond)
					type lost struct {
						at  time.Duration
						err error
					}
					losses := make(chan lost, 9)
					c.opts.OnLoss = func(_ *Leadership, err error) { losses <- lost{e.clock.Now(), err} }
					l := lead(t, join(t, e, "jobs", c.opts))
					time.Sleep(5 * c.trust)
					must.True(t, l.Valid())

					w.set(what)
					synctest.Wait()
					end := w.lastRead() + c.trust
					must.Eq(t, end, l.Until())
					must.Eq(t, end-e.clock.Now(), l.Trusted())
					time.Sleep(end - e.clock.Now() - 1)
					synctest.Wait()
					must.True(t, l.Valid())
					must.Eq(t, 1, l.Trusted())
					must.NoError(t, l.Err())
					must.NoError(t, l.Context().Err())

					time.Sleep(time.Nanosecond)
					must.False(t, l.Valid()) // whether or not the loop ran
					must.Zero(t, l.Trusted())
					synctest.Wait()
					<-l.Done()
					must.ErrorIs(t, l.Err(), ErrTrustExpired)
					must.ErrorIs(t, context.Cause(l.Context()), ErrTrustExpired)
					got := <-losses
					must.Eq(t, end, got.at)
					must.ErrorIs(t, got.err, ErrTrustExpired)
					s, err := e.Status("jobs")
					must.NoError(t, err)
					must.False(t, s.Self)
					must.Zero(t, s.Trusted)
				})
			})
		}
	}
}

// jumpClock is a clock of trust that can jump, as CLOCK_BOOTTIME does over a suspension:
// the timers of the process do not know of it.
type jumpClock struct {
	bubbleClock
	jumped atomic.Int64
}

func (c *jumpClock) Now() time.Duration { return c.bubbleClock.Now() + time.Duration(c.jumped.Load()) }

// TestClockJump: whoever was suspended does not trust that it leads, from the first
// moment on in which it runs again and before any of its timers has fired.
func TestClockJump(t *testing.T) {
	for _, mode := range []Mode{Strict, Balanced, Fenced} {
		t.Run(string(mode), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fakeConsul) {
				w := &wire{f: f, latency: time.Millisecond}
				clk := &jumpClock{bubbleClock: bubbleClock{f.since}}
				e, err := newElector(Config{Mode: mode, Consul: &api.Config{Address: "consul.test:8500"}}, clk, w)
				must.NoError(t, err)
				t.Cleanup(func() {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					must.NoError(t, e.Close(ctx))
				})
				losses := make(chan error, 1)
				l := lead(t, join(t, e, "jobs", Options{OnLoss: func(_ *Leadership, err error) { losses <- err }}))
				must.True(t, l.Valid())

				clk.jumped.Add(int64(time.Hour))
				must.False(t, l.Valid())
				must.Zero(t, l.Trusted())
				_, err = l.KV(context.Background(), api.KVTxnOps{{Verb: api.KVGet, Key: "x"}})
				must.ErrorIs(t, err, ErrNotLeader)
				s, err := e.Status("jobs")
				must.NoError(t, err)
				must.False(t, s.Self)
				must.ErrorIs(t, <-losses, ErrTrustExpired)
				<-l.Done()

				// The lock is given back, and the next term is another one.
				next := lead(t, mustCandidate(t, e, "jobs"))
				must.Greater(t, l.Token(), next.Token())
			})
		})
	}
}

func mustCandidate(t *testing.T, e *Elector, name string) *Candidate {
	t.Helper()
	c, ok := e.Candidate(name)
	must.True(t, ok)
	return c
}

// TestTrustOfTheLock: until the first consistent read, trust counts from when the lock
// was sent.
func TestTrustOfTheLock(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		e, w := f.elector(t, Config{})
		w.slow(20 * time.Millisecond)
		c := join(t, e, "jobs", Options{})
		time.Sleep(time.Second) // the key was made, and is waited for: see campaign.wait
		_, err := e.Status("jobs")
		must.NoError(t, err)
		w.set(refuse, kindRead, kindWatch)
		l := lead(t, c)
		must.Eq(t, e.clock.Now()-2*w.latency+1350*time.Millisecond, l.Until())
		<-l.Done()
		must.Eq(t, l.Until(), e.clock.Now())
		must.ErrorIs(t, l.Err(), ErrTrustExpired)
	})
}

// TestLateLockIsNotTrusted: an answer that came after the trust it would give.
func TestLateLockIsNotTrusted(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		e, w := f.elector(t, Config{TTL: time.Second})
		gained := make(chan *Leadership, 9)
		c := join(t, e, "jobs", Options{OnGain: func(l *Leadership) { gained <- l }})
		time.Sleep(500 * time.Millisecond)
		w.slow(460 * time.Millisecond)
		time.Sleep(3 * time.Second)
		must.Nil(t, c.Leadership())
		must.Eq(t, 0, len(gained))
		w.slow(time.Millisecond)
		must.True(t, lead(t, c).Valid())
	})
}

func TestReadsExtendAllElectionsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		e, w := f.elector(t, Config{})
		var all []*Leadership
		for _, name := range []string{"a", "b", "c"} {
			all = append(all, lead(t, join(t, e, name, Options{})))
		}
		time.Sleep(time.Minute)
		before, txns := w.sent(kindRead), w.sent(kindTxn)
		time.Sleep(time.Minute)
		for _, l := range all {
			must.True(t, l.Valid())
			must.Eq(t, w.lastRead()+1350*time.Millisecond, l.Until())
		}
		must.Between(t, 130, w.sent(kindRead)-before, 134) // every 450 ms
		must.Eq(t, txns, w.sent(kindTxn))                  // no writes when idle
	})
}

// TestFasterModeJoinsLater: the reads come soon enough for the new term, too.
func TestFasterModeJoinsLater(t *testing.T) {
	for after := time.Duration(0); after < 3*time.Second; after += 250 * time.Millisecond {
		t.Run(after.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fakeConsul) {
				e, _ := f.elector(t, Config{Mode: Strict})
				f.free("slow")
				f.free("fast")
				slow := lead(t, join(t, e, "slow", Options{}))
				time.Sleep(10*time.Second + after)
				fast := lead(t, join(t, e, "fast", Options{Mode: Balanced}))
				time.Sleep(time.Minute)
				must.NoError(t, slow.Err())
				must.NoError(t, fast.Err())
			})
		})
	}
}

func TestLease(t *testing.T) {
	const lease = 3 * time.Second
	start := func(t *testing.T, f *fakeConsul) (*Elector, *Candidate, *Leadership) {
		e, _ := f.elector(t, Config{})
		f.free("jobs")
		c := join(t, e, "jobs", Options{Lease: lease})
		l := lead(t, c)
		must.NoError(t, c.Renew())
		return e, c, l
	}
	t.Run("expires", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fakeConsul) {
			e, c, l := start(t, f)
			time.Sleep(lease - 1)
			synctest.Wait()
			must.True(t, l.Valid())
			time.Sleep(time.Nanosecond)
			<-l.Done()
			must.ErrorIs(t, l.Err(), ErrLeaseExpired)
			<-c.Done()
			must.ErrorIs(t, c.Err(), ErrLeaseExpired)
			must.ErrorIs(t, c.Renew(), ErrLeaseExpired)
			_, err := c.Lead(context.Background())
			must.ErrorIs(t, err, ErrLeaseExpired)
			k, _ := f.key("election/leader/jobs")
			must.Eq(t, "", k.session) // released
			_, joined := e.Candidate("jobs")
			must.False(t, joined)
			again := join(t, e, "jobs", Options{})
			must.Greater(t, l.Token(), lead(t, again).Token())
		})
	})
	t.Run("renewed", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fakeConsul) {
			_, c, l := start(t, f)
			for range 20 {
				time.Sleep(lease - time.Millisecond)
				must.NoError(t, c.Renew())
			}
			must.True(t, l.Valid())
		})
	})
	t.Run("of one who does not lead", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fakeConsul) {
			_, _, l := start(t, f)
			other, _ := f.elector(t, Config{ID: "other"})
			c := join(t, other, "jobs", Options{Lease: time.Second})
			time.Sleep(900 * time.Millisecond)
			must.ErrorIs(t, c.Renew(), ErrNotLeader)
			time.Sleep(900 * time.Millisecond)
			must.NoError(t, c.Err())
			time.Sleep(100 * time.Millisecond)
			<-c.Done()
			must.ErrorIs(t, c.Err(), ErrLeaseExpired)
			must.True(t, l.Valid())
		})
	})
	t.Run("while consul is away", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fakeConsul) {
			e, w := f.elector(t, Config{Mode: Strict})
			f.free("jobs")
			c := join(t, e, "jobs", Options{Lease: lease})
			l := lead(t, c)
			must.NoError(t, c.Renew())
			w.set(swallow)
			time.Sleep(lease)
			<-l.Done() // at once, whatever consul does
			must.ErrorIs(t, l.Err(), ErrLeaseExpired)
			must.True(t, errors.Is(c.Renew(), ErrLeaseExpired))
		})
	})
}

// TestFailover: how long nobody leads after a leader is cut off or dies.
func TestFailover(t *testing.T) {
	for _, mode := range []Mode{Strict, Balanced, Fenced} {
		t.Run(string(mode), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fakeConsul) {
				a, wa := f.elector(t, Config{ID: "a", Mode: mode})
				b, _ := f.elector(t, Config{ID: "b", Mode: mode})
				la := lead(t, join(t, a, "jobs", Options{}))
				cb := join(t, b, "jobs", Options{})
				time.Sleep(30 * time.Second)
				wa.set(swallow)
				cut := a.clock.Now()
				lb := lead(t, cb)
				took := b.clock.Now() - cut
				must.Greater(t, la.Token(), lb.Token())
				if mode != Fenced {
					must.False(t, la.Valid())
				}
				most := map[Mode]time.Duration{
					Strict: 30*time.Second + 200*time.Millisecond, Balanced: 3*time.Second + 200*time.Millisecond, Fenced: 1700 * time.Millisecond,
				}[mode]
				must.LessEq(t, most, took)
			})
		})
	}
}

// TestHungApplication: an application that does not stop when its lease or its trust has
// expired does not keep others from leading. What was resigned waits for it.
func TestHungApplication(t *testing.T) {
	t.Run("lease", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fakeConsul) {
			hung := make(chan struct{})
			a, _ := f.elector(t, Config{ID: "a"})
			b, _ := f.elector(t, Config{ID: "b"})
			f.free("jobs")
			ca := join(t, a, "jobs", Options{Lease: 3 * time.Second, OnLoss: func(*Leadership, error) { <-hung }})
			la := lead(t, ca)
			cb := join(t, b, "jobs", Options{})
			lb := lead(t, cb)
			must.ErrorIs(t, la.Err(), ErrLeaseExpired)
			must.Greater(t, la.Token(), lb.Token())
			// Its lease, its window to stop, and the window that the others wait.
			must.Between(t, 3*time.Second, b.clock.Now()-la.Until()+1350*time.Millisecond, 8*time.Second)
			must.NoError(t, ca.Err()) // still at it
			time.Sleep(time.Minute)
			close(hung)
			<-ca.Done()
			must.ErrorIs(t, ca.Err(), ErrLeaseExpired)
			time.Sleep(time.Minute)
			must.True(t, lb.Valid()) // what it released in the end was not b's
		})
	})
	t.Run("trust", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fakeConsul) {
			hung := make(chan struct{})
			a, wa := f.elector(t, Config{ID: "a"})
			b, _ := f.elector(t, Config{ID: "b"})
			f.free("jobs")
			ca := join(t, a, "jobs", Options{OnLoss: func(*Leadership, error) { <-hung }})
			la := lead(t, ca)
			cb := join(t, b, "jobs", Options{})
			time.Sleep(time.Second)
			wa.set(refuse, kindRead)
			lb := lead(t, cb)
			must.ErrorIs(t, la.Err(), ErrTrustExpired)
			wa.set(fine)
			close(hung)
			time.Sleep(time.Minute)
			must.True(t, lb.Valid())
			must.Nil(t, ca.Leadership())
		})
	})
	t.Run("resigned", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fakeConsul) {
			hung := make(chan struct{})
			a, _ := f.elector(t, Config{ID: "a"})
			b, _ := f.elector(t, Config{ID: "b"})
			f.free("jobs")
			ca := join(t, a, "jobs", Options{OnLoss: func(*Leadership, error) { <-hung }})
			lead(t, ca)
			cb := join(t, b, "jobs", Options{})
			time.Sleep(time.Second)
			must.ErrorIs(t, ca.Resign(deadline(t, time.Minute)), context.DeadlineExceeded)
			must.Nil(t, cb.Leadership())
			close(hung)
			lead(t, cb)
		})
	})
}

// TestEndedContext: a context that has ended bounds the wait and nothing else.
func TestEndedContext(t *testing.T) {
	for name, end := range map[string]func(context.Context, *Candidate) error{
		"resign":    func(ctx context.Context, c *Candidate) error { return c.Resign(ctx) },
		"hand over": func(ctx context.Context, c *Candidate) error { return c.HandOver(ctx, "b") },
		"leave":     func(ctx context.Context, c *Candidate) error { return c.Leave(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fakeConsul) {
				a, _ := f.elector(t, Config{ID: "a"})
				b, _ := f.elector(t, Config{ID: "b"})
				f.free("jobs")
				ca := join(t, a, "jobs", Options{})
				la := lead(t, ca)
				cb := join(t, b, "jobs", Options{})
				time.Sleep(time.Second)
				ended, cancel := context.WithCancel(context.Background())
				cancel()
				must.ErrorIs(t, end(ended, ca), context.Canceled)
				must.False(t, la.Valid())
				must.Greater(t, la.Token(), lead(t, cb).Token())
			})
		})
	}
}
