package election

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
)

func TestClose(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		a, _ := f.elector(t, Config{ID: "a"})
		b, _ := f.elector(t, Config{ID: "b", Mode: Strict})
		f.free("x")
		f.free("y")
		var losses []error
		x := join(t, a, "x", Options{OnLoss: func(_ *Leadership, err error) { losses = append(losses, err) }})
		y := join(t, a, "y", Options{Mode: Strict})
		lead(t, x)
		ly := lead(t, y)
		bx, by := join(t, b, "x", Options{Mode: Balanced}), join(t, b, "y", Options{})
		time.Sleep(5 * time.Second)
		watched := a.Watch(t.Context(), "x")
		<-watched
		blocked := make(chan error, 1)
		go func() { _, err := join(t, a, "z", Options{}).Lead(context.Background()); blocked <- err }()
		synctest.Wait()

		before := a.clock.Now()
		must.NoError(t, a.Close(t.Context()))
		must.Less(t, 200*time.Millisecond, a.clock.Now()-before)
		must.Len(t, 1, losses)
		must.ErrorIs(t, losses[0], ErrClosed)
		must.ErrorIs(t, ly.Err(), ErrClosed)
		must.ErrorIs(t, x.Err(), ErrClosed)
		must.ErrorIs(t, <-blocked, ErrClosed)
		_, open := <-watched
		must.False(t, open)
		must.False(t, a.Health().Ready)
		_, err := a.Join("x", Options{})
		must.ErrorIs(t, err, ErrClosed)
		_, err = a.Status("x")
		must.ErrorIs(t, err, ErrClosed)
		must.ErrorIs(t, x.Renew(), ErrClosed)
		must.Len(t, 0, a.List())

		before = b.clock.Now()
		lead(t, bx)
		lead(t, by)
		must.Less(t, 200*time.Millisecond, b.clock.Now()-before)
		f.do(func(m *model) {
			for _, s := range m.sessions {
				must.Eq(t, "elector/b", s.name)
			}
			must.MapNotContainsKey(t, m.kv, "election/candidate/a")
			must.MapLen(t, 1, f.agents)
		})
		must.NoError(t, a.Close(t.Context()))
	})
}

// TestCloseOutOfTime: the sessions go, and with them the locks, although the application
// has not stopped.
func TestCloseOutOfTime(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		a, _ := f.open(t, Config{ID: "a"})
		b, _ := f.elector(t, Config{ID: "b"})
		f.free("jobs")
		stopped := make(chan struct{})
		l := lead(t, join(t, a, "jobs", Options{OnLoss: func(*Leadership, error) { time.Sleep(time.Minute); close(stopped) }}))
		cb := join(t, b, "jobs", Options{})
		time.Sleep(time.Second)
		closed := make(chan error, 1)
		before := a.clock.Now()
		go func() { closed <- a.Close(deadline(t, 2*time.Second)) }()
		lb := lead(t, cb)
		must.Greater(t, l.Token(), lb.Token())
		must.False(t, l.Valid())
		// It was not released in order, so the window is waited for.
		must.Between(t, 3500*time.Millisecond, b.clock.Now()-before, 4*time.Second)
		err := <-closed
		must.ErrorIs(t, err, context.DeadlineExceeded)
		select {
		case <-stopped:
		default:
			t.Error("Close returned before OnLoss")
		}
		must.True(t, errors.Is(a.Close(t.Context()), context.DeadlineExceeded)) // what the first returned
	})
}

func TestCloseWithoutConsul(t *testing.T) {
	for name, what := range map[string]fate{"refused": refuse, "swallowed": swallow} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fakeConsul) {
				e, w := f.open(t, Config{})
				f.free("jobs")
				l := lead(t, join(t, e, "jobs", Options{}))
				w.set(what)
				before := e.clock.Now()
				must.Error(t, e.Close(deadline(t, time.Second)))
				must.LessEq(t, 5*time.Second, e.clock.Now()-before)
				must.ErrorIs(t, l.Err(), ErrClosed)
			})
		})
	}
}

// TestStartWithoutConsul: requests are refused at first, and not sent too often.
func TestStartWithoutConsul(t *testing.T) {
	for name, what := range map[string]fate{"refused": refuse, "swallowed": swallow} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fakeConsul) {
				e, w := f.elector(t, Config{})
				w.set(what)
				f.free("jobs")
				c := join(t, e, "jobs", Options{})
				time.Sleep(time.Minute)
				must.Nil(t, c.Leadership())
				h := e.Health()
				must.False(t, h.Ready)
				must.StrContains(t, h.Reason, "consul has not answered yet")
				s, err := e.Status("jobs")
				must.NoError(t, err)
				must.Eq(t, h.Reason, s.Error)
				must.Negative(t, s.Observed)
				must.Nil(t, s.Leader)
				must.LessEq(t, 540, w.sent(kindRead))
				must.LessEq(t, 130, w.sent(kindWatch))
				must.LessEq(t, 160, w.sent(kindService))
				must.Zero(t, w.sent(kindSession)+w.sent(kindTxn)+w.sent(kindBeat))
				must.Positive(t, e.Stats().ConsulErrors)

				w.set(fine)
				before := e.clock.Now()
				must.True(t, lead(t, c).Valid())
				must.LessEq(t, 6*time.Second, e.clock.Now()-before)
				time.Sleep(time.Second)
				must.Eq(t, Health{Ready: true}, e.Health())
			})
		})
	}
}

// TestFirstTermAfterStart: a process that has just started does not wait for more than
// it has to.
func TestFirstTermAfterStart(t *testing.T) {
	for _, mode := range []Mode{Strict, Balanced, Fenced} {
		for _, released := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/released %v", mode, released), func(t *testing.T) {
				bubble(t, func(t *testing.T, f *fakeConsul) {
					most := 300 * time.Millisecond
					if released {
						f.free("jobs")
					}
					e, _ := f.elector(t, Config{Mode: mode})
					before := e.clock.Now()
					if !released { // nobody knows who had the key before
						most += e.cfg.timing(mode).window
					}
					lead(t, join(t, e, "jobs", Options{}))
					must.LessEq(t, most, e.clock.Now()-before)
				})
			})
		}
	}
}

func TestWatch(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		a, _ := f.elector(t, Config{ID: "a", Address: "10.0.0.1:80"})
		b, _ := f.elector(t, Config{ID: "b"})
		time.Sleep(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		watched := b.Watch(ctx, "jobs")
		first := <-watched
		must.Eq(t, "jobs", first.Election)
		must.Nil(t, first.Leader)
		f.free("jobs")
		c := join(t, a, "jobs", Options{})
		l := lead(t, c)
		time.Sleep(time.Second)
		last := <-watched // what came in between is not seen: latest wins
		for last.Leader == nil {
			last = <-watched
		}
		must.Eq(t, &Leader{ID: "a", Address: "10.0.0.1:80"}, last.Leader)
		must.Eq(t, l.Token(), last.Token)
		must.False(t, last.Self)
		must.False(t, last.Joined)
		must.Eq(t, []CandidateInfo{{ID: "a", Address: "10.0.0.1:80"}}, last.Candidates)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		select {
		case s := <-watched:
			t.Errorf("nothing happened: %+v", s)
		default:
		}
		must.NoError(t, c.Leave(t.Context()))
		for last.Leader != nil {
			last = <-watched
		}
		cancel()
		for range watched { // is closed
		}
		for range b.Watch(ctx, "jobs") { // at once
		}
	})
}

func TestStatusOfElections(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		a, _ := f.elector(t, Config{ID: "a", Meta: map[string]string{"zone": "1"}})
		b, wb := f.elector(t, Config{ID: "b"})
		f.free("y")
		l := lead(t, join(t, a, "y", Options{Mode: Fenced}))
		join(t, b, "y", Options{Priority: 7})
		join(t, b, "x", Options{})
		time.Sleep(3 * time.Second)
		list := a.List()
		must.Len(t, 2, list)
		must.Eq(t, "x", list[0].Election)
		must.Eq(t, "b", list[0].Leader.ID)
		must.False(t, list[0].Joined)
		y := list[1]
		must.True(t, y.Self)
		must.True(t, y.Joined)
		must.Eq(t, Fenced, y.Mode)
		must.Eq(t, l.Token(), y.Token)
		must.Eq(t, l.Term(), y.Term)
		must.Eq(t, l.Trusted(), y.Trusted)
		must.Eq(t, []CandidateInfo{{ID: "b"}, {ID: "a", Meta: map[string]string{"zone": "1"}, Rank: 1}}, y.Candidates)
		_, err := a.Status("z")
		must.ErrorIs(t, err, ErrUnknown)

		stats := a.Stats()
		must.Eq(t, 1, stats.Joined)
		must.Eq(t, 1, stats.Leading)
		must.Eq(t, 1, stats.Gains)
		must.Eq(t, 2, stats.Sessions) // of balanced and fenced
		must.Zero(t, stats.ConsulErrors)

		wb.set(swallow)
		time.Sleep(10 * time.Second)
		s, err := b.Status("y")
		must.NoError(t, err)
		must.GreaterEq(t, 10*time.Second, s.Observed)
		must.False(t, b.Health().Ready)
		must.Eq(t, 1, b.Stats().Losses["trust expired"])
	})
}
