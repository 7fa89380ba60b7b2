package election

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// handClock is moved by hand.
type handClock struct{ now time.Duration }

func (c *handClock) Now() time.Duration { return c.now }

// term is a leadership that is trusted until 10 s, with a grace of 1 s.
func term() (*Leadership, *handClock) {
	clk := &handClock{now: 5 * time.Second}
	c := &campaign{name: "x", token: 7, term: 2, session: "s", opts: Options{Grace: time.Second}}
	return newLeadership(c, "election/leader/x", clk, nil, 10*time.Second), clk
}

func TestLeadership(t *testing.T) {
	l, clk := term()
	must.Eq(t, "x", l.Election())
	must.Eq(t, 7, l.Token())
	must.Eq(t, 2, l.Term())
	must.Eq(t, 9*time.Second, l.Until())
	must.Eq(t, 4*time.Second, l.Trusted())
	clk.now = 9*time.Second - 1
	must.True(t, l.Valid())
	clk.now = 9 * time.Second
	must.False(t, l.Valid())
	must.Zero(t, l.Trusted())
	clk.now = 20 * time.Second
	must.Zero(t, l.Trusted()) // never negative
	must.NoError(t, l.Err())  // nobody has ended it yet

	l, _ = term()
	l.end(ErrResigned)
	l.end(ErrClosed) // too late
	must.False(t, l.Valid())
	must.Zero(t, l.Trusted())
	<-l.Done()
	must.ErrorIs(t, l.Err(), ErrResigned)
	must.ErrorIs(t, context.Cause(l.Context()), ErrResigned)
	_, err := l.KV(t.Context(), nil)
	must.Error(t, err)
}

func TestExtendNeverGoesBack(t *testing.T) {
	l, _ := term()
	l.extend(9 * time.Second)
	must.Eq(t, 9*time.Second, l.Until())
	l.extend(11 * time.Second)
	must.Eq(t, 10*time.Second, l.Until())
	l.extend(10 * time.Second)
	must.Eq(t, 10*time.Second, l.Until())

	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 1000 {
				l.extend(time.Duration(12+n*8+i) * time.Second)
			}
		})
	}
	last := l.Until()
	for range 1000 {
		must.GreaterEq(t, last, l.Until())
		last = l.Until()
	}
	wg.Wait()
	must.Eq(t, time.Duration(12+999*8+7)*time.Second, l.Until()+time.Second)
}

func TestHold(t *testing.T) {
	open := func(ch <-chan struct{}) bool {
		select {
		case <-ch:
			return false
		default:
			return true
		}
	}
	t.Run("nobody works", func(t *testing.T) {
		l, _ := term()
		must.False(t, open(l.idle()))
		_, ok := l.hold()
		must.False(t, ok)
	})
	t.Run("two work", func(t *testing.T) {
		l, _ := term()
		first, ok := l.hold()
		must.True(t, ok)
		second, ok := l.hold()
		must.True(t, ok)
		idle := l.idle()
		must.True(t, open(idle))
		_, ok = l.hold() // not after the end
		must.False(t, ok)
		first()
		must.True(t, open(idle))
		second()
		must.False(t, open(idle))
	})
	t.Run("done before the end", func(t *testing.T) {
		l, _ := term()
		letGo, ok := l.hold()
		must.True(t, ok)
		letGo()
		must.False(t, open(l.idle()))
	})
	t.Run("not trusted", func(t *testing.T) {
		l, clk := term()
		clk.now = time.Minute
		_, ok := l.hold()
		must.False(t, ok)
	})
}

func TestClock(t *testing.T) {
	before := Now()
	must.Positive(t, before)
	start := time.Now()
	last := before
	for time.Since(start) < 2*time.Millisecond {
		now := Now()
		must.GreaterEq(t, last, now)
		last = now
	}
	must.GreaterEq(t, 2*time.Millisecond, Now()-before)
}
