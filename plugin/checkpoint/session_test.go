package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
)

func TestSaveThroughFaults(t *testing.T) {
	cases := map[string]struct {
		plan []fault // of data and manifest, and what comes between
		seq  int     // of the version that comes of it
	}{
		"none":                              {nil, 1},
		"data not stored":                   {[]fault{before}, 1},
		"data stored, answer lost":          {[]fault{after}, 1},
		"read-back of data fails":           {[]fault{after, none, before}, 1},
		"data late":                         {[]fault{late}, 1},
		"manifest not stored":               {[]fault{none, before, before}, 1},
		"manifest stored, answer lost":      {[]fault{none, after}, 1},
		"manifest stored, answers lost":     {[]fault{none, after, none, before, after}, 1},
		"manifest late":                     {[]fault{none, late}, 1},
		"everything but the manifest fails": {[]fault{before, before, after, none, none, none}, 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			store := &mem{shared: newShared()}
			c := open(t, store, Options{})
			s := claim(t, c, "a")
			store.plan = tc.plan
			saved, err := s.Save(t.Context(), []byte("state"), "interval")
			must.NoError(t, err)
			must.Eq(t, tc.seq, saved.Seq)
			store.plan = nil
			for store.land() {
			}
			must.Eq(t, "state", latest(t, c))
			save(t, s, "next")
			must.Eq(t, "next", latest(t, c))
			must.SliceLen(t, 5, store.names())
		})
	}
}

// What cannot come to anything is not tried again.
func TestSaveRefused(t *testing.T) {
	t.Run("too large", func(t *testing.T) {
		store := &mem{shared: newShared()}
		s := claim(t, open(t, store, Options{MaxSize: 1024}), "a")
		n := len(store.log)
		_, err := s.Save(t.Context(), make([]byte, 1025), "interval")
		must.EqError(t, err, "save checkpoint: state of 2 KiB is above max_size of 1 KiB; save less or raise checkpoint.max_size")
		var tooLarge *TooLargeError
		must.True(t, errors.As(err, &tooLarge))
		must.Eq(t, []int64{1025, 1024}, []int64{tooLarge.Size, tooLarge.Limit})
		must.Len(t, n, store.log)
		_, err = s.Save(t.Context(), make([]byte, 1024), "interval")
		must.NoError(t, err)
	})
	for name, plan := range map[string][]fault{"data": {refuse}, "manifest": {none, refuse}} {
		t.Run(name, func(t *testing.T) {
			store := &mem{shared: newShared()}
			c := open(t, store, Options{})
			s := claim(t, c, "a")
			save(t, s, "good")
			store.plan = plan
			_, err := s.Save(t.Context(), []byte("bad"), "interval")
			must.ErrorIs(t, err, ErrRefused)
			must.SliceEmpty(t, store.plan)
			must.Eq(t, "good", latest(t, c))
			// And what was left half-written goes with the next one.
			save(t, s, "better")
			must.Eq(t, "better", latest(t, c))
			must.SliceLen(t, 5, store.names())
		})
	}
}

// Repeated failures leave nothing that grows.
func TestOutageLeavesNothing(t *testing.T) {
	store := &mem{shared: newShared()}
	c := open(t, store, Options{})
	s := claim(t, c, "a")
	for i := range 100 {
		store.plan = []fault{refuse}
		_, err := s.Save(t.Context(), fmt.Append(nil, i), "interval")
		must.ErrorIs(t, err, ErrRefused)
	}
	must.MapEmpty(t, s.halves)
	must.Eq(t, 1, save(t, s, "after").Seq)
}

// A save that failed may still arrive. It must not be mistaken for the next one,
// nor come before it.
func TestLateData(t *testing.T) {
	for name, second := range map[string]string{"another state": "second", "the same state": "first"} {
		t.Run(name, func(t *testing.T) {
			store := &mem{shared: newShared()}
			c := open(t, store, Options{})
			s := claim(t, c, "a")
			store.plan = []fault{late, refuse}
			_, err := s.Save(t.Context(), []byte("first"), "interval")
			must.ErrorIs(t, err, ErrRefused)
			must.True(t, store.land())
			saved := save(t, s, second)
			must.Eq(t, 2, saved.Seq)
			must.Eq(t, second, latest(t, c))
		})
	}
	t.Run("a manifest", func(t *testing.T) {
		store := &mem{shared: newShared()}
		c := open(t, store, Options{})
		s := claim(t, c, "a")
		store.plan = []fault{none, late, refuse}
		_, err := s.Save(t.Context(), []byte("first"), "interval")
		must.ErrorIs(t, err, ErrRefused)
		must.Eq(t, "", latest(t, c))
		must.True(t, store.land())
		must.Eq(t, "first", latest(t, c))
		save(t, s, "second")
		must.Eq(t, "second", latest(t, c))
	})
}

func TestRetriesEndWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &mem{shared: newShared()}
		c, err := Open(store, identity, Options{})
		must.NoError(t, err)
		s := claim(t, c, "a")
		store.hook = func(string, string) { store.plan = []fault{before} }
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		_, err = s.Save(ctx, []byte("state"), "drained")
		must.Eq(t, 10*time.Second, time.Since(begin))
		must.ErrorIs(t, err, context.DeadlineExceeded)
		must.ErrorIs(t, err, errBroken)
		must.StrContains(t, err.Error(), "save checkpoint: write "+prefix+"00000001/00000001.data: context deadline exceeded; the last error was: connection reset")
	})
}

// A save that takes too long begins anew: a later owner may have deleted its
// data by then.
func TestSaveBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &mem{shared: newShared()}
		c, err := Open(store, identity, Options{})
		must.NoError(t, err)
		s := claim(t, c, "a")
		begin := time.Now()
		store.hook = func(op, name string) {
			if strings.HasSuffix(name, ".json") && time.Since(begin) < saveWindow+time.Minute {
				store.plan = []fault{before}
			}
		}
		saved, err := s.Save(t.Context(), []byte("state"), "interval")
		must.NoError(t, err)
		must.Eq(t, 2, saved.Seq)
		must.Eq(t, "state", latest(t, c))
		must.SliceNotContains(t, store.names(), prefix+"00000001/00000001.data")
	})
}

func TestSavesRunOneAfterTheOther(t *testing.T) {
	store := &mem{shared: newShared()}
	c := open(t, store, Options{Keep: 100})
	s := claim(t, c, "a")
	var running, most int
	var mu sync.Mutex
	store.hook = func(op, name string) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case op == "create" && strings.HasSuffix(name, ".data"):
			running++
			most = max(most, running)
		case op == "create":
			running--
		}
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := s.Save(t.Context(), fmt.Append(nil, i), "interval"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must.Eq(t, 1, most)
	must.SliceLen(t, 41, store.names())

	// One that waits gives up with its context.
	must.NoError(t, s.lock(t.Context()))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("no time left"))
	_, err := s.Save(ctx, nil, "interval")
	must.ErrorContains(t, err, "no time left")
	must.ErrorContains(t, s.End(ctx, "drained", false), "no time left")
	s.unlock()
}

func TestSuperseded(t *testing.T) {
	store := &mem{shared: newShared()}
	c := open(t, store, Options{Keep: 2})
	a := claim(t, open(t, store, Options{Keep: 2}), "a")
	save(t, a, "a-1")
	b := claim(t, c, "b")
	saved := save(t, a, "a-2")
	must.Eq(t, 2, saved.Superseded.Epoch)
	must.Eq(t, "b", saved.Superseded.Owner.Alloc)
	must.Eq(t, "a-2", latest(t, c)) // b has saved nothing yet
	must.Nil(t, save(t, b, "b-1").Superseded)
	must.Eq(t, "b-1", latest(t, c))
	must.NotNil(t, save(t, a, "a-3").Superseded)
	must.Eq(t, "b-1", latest(t, c))
	// Even without b's the one that was acknowledged last is there.
	store.remove(prefix + "00000002/00000001.json")
	must.Eq(t, "a-3", latest(t, c))
	// A final end closes only what is the owner's own or older.
	save(t, b, "b-2")
	must.NoError(t, a.End(t.Context(), "stopped", true))
	must.Eq(t, "b-2", latest(t, c))
}

func TestResume(t *testing.T) {
	who := Owner{Alloc: "a", Node: "n"}
	t.Run("goes on", func(t *testing.T) {
		store := &mem{shared: newShared()}
		c := open(t, store, Options{})
		s := claim(t, c, "a")
		save(t, s, "one")
		store.plan = []fault{none, refuse}
		_, err := s.Save(t.Context(), []byte("half"), "interval")
		must.Error(t, err)

		n := len(store.log)
		s, err = open(t, store, Options{}).Resume(s.Epoch(), who)
		must.NoError(t, err)
		must.Len(t, n, store.log) // without the store
		saved := save(t, s, "two")
		must.Eq(t, ref{1, 3}, saved.ref())
		must.Eq(t, "a", saved.Alloc)
		must.Eq(t, "two", latest(t, c))
	})
	t.Run("the store fails at first", func(t *testing.T) {
		store := &mem{shared: newShared()}
		claim(t, open(t, store, Options{}), "a")
		s, err := open(t, store, Options{}).Resume(1, who)
		must.NoError(t, err)
		store.plan = []fault{refuse}
		_, err = s.Save(t.Context(), []byte("one"), "interval")
		must.ErrorIs(t, err, ErrRefused)
		must.Eq(t, 1, save(t, s, "one").Seq)
	})
	t.Run("from a list that is behind", func(t *testing.T) {
		store := &mem{shared: newShared()}
		s := claim(t, open(t, store, Options{}), "a")
		save(t, s, "one")
		save(t, s, "two")
		store.behind = 3
		s, err := open(t, store, Options{}).Resume(1, who)
		must.NoError(t, err)
		must.Eq(t, 3, save(t, s, "three").Seq)
	})
	t.Run("has ended", func(t *testing.T) {
		store := &mem{shared: newShared()}
		s := claim(t, open(t, store, Options{}), "a")
		must.NoError(t, s.End(t.Context(), "failed", false))
		s, err := open(t, store, Options{}).Resume(1, who)
		must.NoError(t, err)
		_, err = s.Save(t.Context(), []byte("one"), "interval")
		must.ErrorIs(t, err, ErrEnded)
		must.NoError(t, s.End(t.Context(), "failed", false)) // again
		must.NoError(t, s.End(t.Context(), "stopped", true)) // and for good
		must.SliceContains(t, store.names(), prefix+"00000001/final")
	})
	t.Run("two processes at once", func(t *testing.T) {
		store := &mem{shared: newShared()}
		c := open(t, store, Options{})
		old := claim(t, c, "a")
		save(t, old, "one")
		s, err := open(t, store, Options{}).Resume(1, who)
		must.NoError(t, err)
		must.Eq(t, 2, save(t, s, "two").Seq)
		must.Eq(t, 3, save(t, old, "three").Seq)
		must.Eq(t, 4, save(t, s, "four").Seq)
		must.Eq(t, "four", latest(t, c))
	})
	t.Run("refused", func(t *testing.T) {
		c := open(t, &mem{shared: newShared()}, Options{})
		_, err := c.Resume(0, who)
		must.ErrorContains(t, err, "resume epoch 0: there is no such epoch")
		_, err = c.Resume(1, Owner{})
		must.ErrorContains(t, err, "alloc has 0 bytes")
	})
	t.Run("used up", func(t *testing.T) {
		store := &mem{shared: newShared()}
		store.put(prefix+"00000001/99999999.data", "x")
		s, err := open(t, store, Options{}).Resume(1, who)
		must.NoError(t, err)
		_, err = s.Save(t.Context(), nil, "interval")
		must.ErrorContains(t, err, "all numbers of epoch 1 are used up")
	})
}

func TestEnd(t *testing.T) {
	cases := map[string]struct {
		plan []fault
		err  error
	}{
		"at once":     {nil, nil},
		"answer lost": {[]fault{after}, nil},
		"not stored":  {[]fault{before, before}, nil},
		"late":        {[]fault{late, none}, nil},
		"refused":     {[]fault{refuse}, ErrRefused},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			store := &mem{shared: newShared()}
			c := open(t, store, Options{})
			s := claim(t, c, "a")
			store.plan = tc.plan
			must.ErrorIs(t, s.End(t.Context(), "stopped", true), tc.err)
			_, err := s.Save(t.Context(), nil, "interval")
			must.ErrorIs(t, err, ErrEnded)
			must.NoError(t, s.End(t.Context(), "stopped", true))
			p, err := c.Previous(t.Context())
			must.NoError(t, err)
			must.Eq(t, &End{Alloc: "a", Ended: start, Reason: "stopped", Final: true}, p.End)
		})
	}
}

// Nothing that goes wrong after a version is stored makes the save fail.
func TestPruneFails(t *testing.T) {
	store := &mem{shared: newShared()}
	c := open(t, store, Options{Keep: 1})
	s := claim(t, c, "a")
	save(t, s, "one")

	store.plan = []fault{none, none, before} // the list
	saved, err := s.Save(t.Context(), []byte("two"), "interval")
	must.NoError(t, err)
	must.ErrorIs(t, saved.Prune, errBroken)
	must.ErrorContains(t, saved.Prune, "list checkpoints below "+prefix)

	store.plan = []fault{none, none, none, none, before, before, before, before} // the deletions but one
	saved, err = s.Save(t.Context(), []byte("three"), "interval")
	must.NoError(t, err)
	must.ErrorContains(t, saved.Prune, "delete "+prefix+"00000001/00000001.data: connection reset")
	must.SliceLen(t, 6, store.names())
	must.Eq(t, "three", latest(t, c))

	save(t, s, "four")
	must.SliceLen(t, 3, store.names())
	must.Eq(t, "four", latest(t, c))

	// And not for long.
	ctx, cancel := context.WithCancel(t.Context())
	store.hook = func(op, _ string) {
		if op == "delete" {
			cancel()
		}
	}
	saved, err = s.Save(ctx, []byte("five"), "interval")
	must.NoError(t, err)
	must.ErrorContains(t, saved.Prune, "1 old objects are left")
}

// What is newer is told by number: neither a clock that jumps nor one that is wrong
// brings an old state back, or has a new one pruned.
func TestClockJumps(t *testing.T) {
	store := &mem{shared: newShared()}
	now := start
	clock := func() time.Time { return now }
	const year = 365 * 24 * time.Hour
	a := claim(t, open(t, store, Options{Now: clock, Keep: 2}), "a")
	save(t, a, "one")
	for i, jump := range []time.Duration{10 * year, -20 * year, time.Nanosecond, -year} {
		now = now.Add(jump)
		text := fmt.Sprint("after ", jump)
		save(t, a, text)
		must.Eq(t, text, latest(t, open(t, store, Options{Now: clock})))
		// Likewise if another owner comes, on a machine with yet another clock.
		wrong := now.Add(-jump)
		a = claim(t, open(t, store, Options{Now: func() time.Time { return wrong }, Keep: 2}), fmt.Sprint("b", i))
		save(t, a, text+" elsewhere")
		must.Eq(t, text+" elsewhere", latest(t, open(t, store, Options{Now: clock})))
	}
}

// What a crash left half-written is deleted, but not while it may still be
// written.
func TestHalfWritten(t *testing.T) {
	const data = prefix + "00000001/00000001.data"
	setup := func(t *testing.T) (*mem, *Session, *Chain, *time.Time) {
		store := &mem{shared: newShared()}
		now := start
		clock := func() time.Time { return now }
		a := claim(t, open(t, store, Options{Now: clock}), "a")
		store.plan = []fault{none, refuse}
		_, err := a.Save(t.Context(), []byte("half"), "interval")
		must.Error(t, err)
		return store, a, open(t, store, Options{Now: clock}), &now
	}
	t.Run("of an owner that has not ended", func(t *testing.T) {
		store, _, c, now := setup(t)
		b := claim(t, c, "b")
		save(t, b, "one")
		*now = now.Add(halfAge - time.Second)
		save(t, b, "two")
		must.SliceContains(t, store.names(), data)
		*now = now.Add(time.Second)
		save(t, b, "three")
		must.SliceNotContains(t, store.names(), data)
	})
	t.Run("of an earlier process", func(t *testing.T) {
		store, a, c, now := setup(t)
		a, err := c.Resume(a.Epoch(), a.owner)
		must.NoError(t, err)
		save(t, a, "one")
		must.SliceContains(t, store.names(), data)
		*now = now.Add(halfAge)
		save(t, a, "two")
		must.SliceNotContains(t, store.names(), data)
	})
	t.Run("of one that has", func(t *testing.T) {
		store, a, c, _ := setup(t)
		must.NoError(t, a.End(t.Context(), "failed", false))
		b := claim(t, c, "b")
		must.SliceContains(t, store.names(), data) // seen together with the end for the first time
		save(t, b, "one")
		must.SliceNotContains(t, store.names(), data)
	})
	t.Run("then finished", func(t *testing.T) {
		store, a, c, now := setup(t)
		b := claim(t, c, "b")
		save(t, a, "whole")
		*now = now.Add(halfAge)
		save(t, b, "one")
		must.Eq(t, "one", latest(t, c))
		store.remove(prefix + "00000002/00000001.json")
		must.Eq(t, "whole", latest(t, c))
	})
}
