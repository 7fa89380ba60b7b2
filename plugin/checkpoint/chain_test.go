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

func TestFirstStartIsCold(t *testing.T) {
	store := &mem{shared: newShared()}
	c := open(t, store, Options{})
	previous, err := c.Previous(t.Context())
	must.NoError(t, err)
	must.Nil(t, previous)
	must.NoError(t, c.AwaitEnd(t.Context(), "a", time.Second, nil))
	s, found, err := c.Claim(t.Context(), Owner{Alloc: "a", Node: "n"})
	must.NoError(t, err)
	must.Eq(t, Found{}, found)
	must.Eq(t, 1, s.Epoch())
	l, err := c.Latest(t.Context())
	must.NoError(t, err)
	must.Eq(t, Latest{}, l)
}

func TestStateFollowsTheTask(t *testing.T) {
	store := &mem{shared: newShared()}
	a := claim(t, open(t, store, Options{}), "a")
	save(t, a, "one")
	saved := save(t, a, "two")
	must.Eq(t, Version{
		Epoch: 1, Seq: 2, Alloc: "a", Saved: start, Reason: "interval", Bytes: 3, StoredBytes: saved.StoredBytes, SHA256: sha256Hex([]byte("two")),
	}, saved.Version)
	must.Nil(t, saved.Superseded)
	must.NoError(t, a.End(t.Context(), "drained", false))

	c := open(t, store, Options{})
	_, found, err := c.Claim(t.Context(), Owner{Alloc: "b", Node: "other"})
	must.NoError(t, err)
	must.Eq(t, 1, found.Previous.Epoch)
	must.Eq(t, "a", found.Previous.Owner.Alloc)
	must.Eq(t, "node-of-a", found.Previous.Owner.Node)
	must.True(t, found.Previous.Owner.Claimed.Equal(start))
	must.Eq(t, &End{Alloc: "a", Ended: start, Reason: "drained"}, found.Previous.End)
	l, err := c.Latest(t.Context())
	must.NoError(t, err)
	must.Eq(t, Latest{Checkpoint: &Checkpoint{saved.Version, []byte("two")}}, l)
}

func TestFinalEndCloses(t *testing.T) {
	store := &mem{shared: newShared()}
	c := open(t, store, Options{})
	a := claim(t, c, "a")
	save(t, a, "old")
	must.NoError(t, a.End(t.Context(), "stopped", true))
	must.Eq(t, "", latest(t, c))

	// Owners that save nothing do not open it again, however they end.
	b := claim(t, c, "b")
	must.NoError(t, b.End(t.Context(), "failed", false))
	claim(t, c, "c")
	l, err := c.Latest(t.Context())
	must.NoError(t, err)
	must.Eq(t, Latest{Closed: 1}, l)

	d := claim(t, c, "d")
	save(t, d, "new")
	must.Eq(t, "new", latest(t, c))

	// As the documentation tells the operator.
	store.remove(prefix + "00000004/00000001.json")
	store.remove(prefix + "00000001/final")
	must.Eq(t, "old", latest(t, c))
}

func TestDamagedVersions(t *testing.T) {
	name := func(v ref, ext string) string { return fmt.Sprintf("%s%08d/%08d.%s", prefix, v.epoch, v.seq, ext) }
	newest := ref{1, 3}
	cases := map[string]struct {
		damage func(s *shared)
		want   string // of the error
		object string
	}{
		"data is another's":     {func(s *shared) { s.put(name(newest, "data"), s.objects[name(ref{1, 2}, "data")]) }, "sha256", "data"},
		"data is cut":           {func(s *shared) { s.put(name(newest, "data"), s.objects[name(newest, "data")][:5]) }, "data has 5 bytes", "data"},
		"data is longer":        {func(s *shared) { s.put(name(newest, "data"), s.objects[name(newest, "data")]+"x") }, "is larger than", "data"},
		"data is gone":          {func(s *shared) { s.remove(name(newest, "data")) }, "is not there", "data"},
		"manifest is no JSON":   {func(s *shared) { s.put(name(newest, "json"), "{") }, "JSON", "json"},
		"manifest is too large": {func(s *shared) { s.put(name(newest, "json"), strings.Repeat(" ", maxObject+1)) }, "is larger than", "json"},
	}
	for label, tc := range cases {
		t.Run(label, func(t *testing.T) {
			store := &mem{shared: newShared()}
			c := open(t, store, Options{Keep: 2})
			s := claim(t, c, "a")
			save(t, s, "v-1")
			save(t, s, "v-2")
			save(t, s, "v-3")
			tc.damage(store.shared)
			l, err := c.Latest(t.Context())
			must.NoError(t, err)
			must.Len(t, 1, l.Damaged)
			must.Eq(t, name(newest, tc.object), l.Damaged[0].Name)
			must.ErrorContains(t, l.Damaged[0], tc.want)
			must.Eq(t, "v-2", string(l.Checkpoint.Data))

			// The one that is good is not deleted for one that is not.
			next := claim(t, c, "b")
			save(t, next, "v-4")
			must.SliceContains(t, store.names(), name(ref{1, 2}, "json"))
			must.SliceContains(t, store.names(), name(ref{1, 2}, "data"))
		})
	}
	t.Run("all of them", func(t *testing.T) {
		store := &mem{shared: newShared()}
		c := open(t, store, Options{})
		s := claim(t, c, "a")
		save(t, s, "v-1")
		save(t, s, "v-2")
		store.put(name(ref{1, 1}, "json"), "")
		store.put(name(ref{1, 2}, "json"), "")
		l, err := c.Latest(t.Context())
		must.NoError(t, err)
		must.Nil(t, l.Checkpoint)
		must.Len(t, 2, l.Damaged)
	})
	t.Run("above max_size", func(t *testing.T) {
		store := &mem{shared: newShared()}
		s := claim(t, open(t, store, Options{}), "a")
		save(t, s, "small")
		save(t, s, strings.Repeat("large", 1000))
		l, err := open(t, store, Options{MaxSize: 1024}).Latest(t.Context())
		must.NoError(t, err)
		must.Eq(t, "small", string(l.Checkpoint.Data))
		must.ErrorContains(t, l.Damaged[0], "state of 5 KiB is above max_size of 1 KiB; raise checkpoint.max_size")
		var tooLarge *TooLargeError
		must.True(t, errors.As(l.Damaged[0], &tooLarge))
	})
}

// A version that is deleted while it is read has been followed by another.
func TestLatestWhileOthersSave(t *testing.T) {
	store := &mem{shared: newShared()}
	c := open(t, store, Options{Keep: 1})
	s := claim(t, open(t, &mem{shared: store.shared}, Options{Keep: 1}), "a")
	save(t, s, "one")
	for _, ext := range []string{jsonExt, dataExt} {
		t.Run(ext, func(t *testing.T) {
			saved := ""
			store.hook = func(op, name string) {
				if op == "get" && strings.HasSuffix(name, ext) && saved == "" {
					saved = "while reading " + ext
					save(t, s, saved)
				}
			}
			l, err := c.Latest(t.Context())
			must.NoError(t, err)
			must.Eq(t, saved, string(l.Checkpoint.Data))
			must.SliceEmpty(t, l.Damaged)
		})
	}
}

// That nothing could be read is never taken for that there is nothing.
func TestErrorsAreNotEmptiness(t *testing.T) {
	for name, plan := range map[string][]fault{
		"list": {refuse}, "manifest": {none, refuse}, "data": {none, none, refuse},
	} {
		t.Run(name, func(t *testing.T) {
			store := &mem{shared: newShared()}
			save(t, claim(t, open(t, store, Options{}), "a"), "state")
			store.plan = plan
			_, err := open(t, store, Options{}).Latest(t.Context())
			must.ErrorIs(t, err, ErrRefused)
		})
	}
	t.Run("until the time is up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store := &mem{shared: newShared()}
			save(t, claim(t, open(t, store, Options{}), "a"), "state")
			c, err := Open(store, identity, Options{})
			must.NoError(t, err)
			store.hook = func(op, _ string) { store.plan = []fault{before} }
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err = c.Latest(ctx)
			must.ErrorIs(t, err, context.DeadlineExceeded)
			must.ErrorIs(t, err, errBroken)
			// With growing pauses of at most 5 s: 12 to 24 of these, and the first 6.
			must.Between(t, 15, len(store.log)-5, 40)
		})
	})
}

func TestClaimsDiffer(t *testing.T) {
	store := &mem{shared: newShared()}
	const n = 20
	var wg sync.WaitGroup
	epochs := make([]int, n)
	for i := range n {
		wg.Go(func() {
			s, _, err := open(t, &mem{shared: store.shared}, Options{}).Claim(t.Context(), Owner{Alloc: "same", Node: "n"})
			if err == nil {
				epochs[i] = s.Epoch()
			}
		})
	}
	wg.Wait()
	seen := map[int]bool{}
	for _, e := range epochs {
		must.Between(t, 1, e, n)
		seen[e] = true
	}
	must.MapLen(t, n, seen)
}

func TestClaimIsItsOwn(t *testing.T) {
	cases := map[string]struct {
		plan []fault // of the list and the create, the next create, its read-back
		want int
	}{
		"at once":                   {nil, 1},
		"answer lost":               {[]fault{none, after}, 1},
		"answers lost":              {[]fault{none, after, none, after}, 1},
		"arrives late, tried again": {[]fault{none, late, none}, 1},
		"never arrived":             {[]fault{before, before, none, before}, 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			store := &mem{shared: newShared(), plan: tc.plan}
			s := claim(t, open(t, store, Options{}), "a")
			must.Eq(t, tc.want, s.Epoch())
			store.land()
			must.Eq(t, 2, claim(t, open(t, store, Options{}), "a").Epoch())
		})
	}
	t.Run("another was faster", func(t *testing.T) {
		store := &mem{shared: newShared(), plan: []fault{none, before}}
		store.hook = func(op, name string) {
			if op == "create" && len(store.plan) == 0 {
				store.hook = nil
				must.Eq(t, 1, claim(t, open(t, &mem{shared: store.shared}, Options{}), "a").Epoch())
			}
		}
		must.Eq(t, 2, claim(t, open(t, store, Options{}), "a").Epoch())
	})
	t.Run("from a list that is behind", func(t *testing.T) {
		store := &mem{shared: newShared()}
		for i := range keepOwners - 1 {
			claim(t, open(t, store, Options{}), fmt.Sprint(i))
		}
		store.behind = len(store.lists) - 1
		must.Eq(t, keepOwners, claim(t, open(t, store, Options{}), "z").Epoch())
	})
	t.Run("used up", func(t *testing.T) {
		store := &mem{shared: newShared()}
		store.put(prefix+"99999999/owner", "{}")
		_, _, err := open(t, store, Options{}).Claim(t.Context(), Owner{Alloc: "a"})
		must.ErrorContains(t, err, "all epochs of "+prefix+" are used up")
	})
	t.Run("needs an allocation", func(t *testing.T) {
		_, _, err := open(t, &mem{shared: newShared()}, Options{}).Claim(t.Context(), Owner{Node: "n"})
		must.ErrorContains(t, err, "alloc has 0 bytes")
	})
	t.Run("refused", func(t *testing.T) {
		store := &mem{shared: newShared(), plan: []fault{none, refuse}}
		_, _, err := open(t, store, Options{}).Claim(t.Context(), Owner{Alloc: "a"})
		must.ErrorIs(t, err, ErrRefused)
	})
}

func TestDamagedTenure(t *testing.T) {
	store := &mem{shared: newShared()}
	c := open(t, store, Options{})
	a := claim(t, c, "a")
	must.NoError(t, a.End(t.Context(), "stopped", true))
	store.put(prefix+"00000001/owner", "{")
	store.put(prefix+"00000001/final", strings.Repeat("x", maxObject+1))
	p, err := c.Previous(t.Context())
	must.NoError(t, err)
	must.Eq(t, Owner{}, p.Owner)
	must.Eq(t, &End{Final: true}, p.End)
	var damaged *DamagedError
	must.True(t, errors.As(p.Err, &damaged))
	must.Eq(t, 2, claim(t, c, "b").Epoch())
}

// A thousand starts that save nothing leave a few objects, and the version.
func TestManyStarts(t *testing.T) {
	store := &mem{shared: newShared()}
	c := open(t, store, Options{})
	a := claim(t, c, "a")
	save(t, a, "precious")
	b := claim(t, c, "b")
	must.NoError(t, b.End(t.Context(), "stopped", true))
	x := claim(t, c, "c")
	save(t, x, "newer")
	for i := range 1000 {
		s := claim(t, open(t, store, Options{}), fmt.Sprint(i))
		if i%2 == 0 {
			must.NoError(t, s.End(t.Context(), "failed", false))
		}
	}
	must.LessEq(t, 2*keepOwners+2*3+2, len(store.names()))
	must.Eq(t, "newer", latest(t, c))
	store.remove(prefix + "00000003/00000001.json")
	must.Eq(t, "", latest(t, c)) // still closed
}

func TestAwaitEnd(t *testing.T) {
	never := func(context.Context, Owner) bool { return false }
	// await runs in a bubble, as a and b have claimed and a third one waits.
	await := func(t *testing.T, gone func(context.Context, Owner) bool, meanwhile func(store *mem, a, b *Session)) (time.Duration, error) {
		t.Helper()
		store := &mem{shared: newShared()}
		a, b := claim(t, open(t, store, Options{}), "a"), claim(t, open(t, store, Options{}), "b")
		claim(t, open(t, store, Options{}), "c")
		c, err := Open(store, identity, Options{})
		must.NoError(t, err)
		begin := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { meanwhile(store, a, b) })
		defer wg.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = c.AwaitEnd(ctx, "c", time.Second, gone)
		return time.Since(begin), err
	}
	t.Run("all end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			took, err := await(t, never, func(_ *mem, a, b *Session) {
				time.Sleep(5 * time.Second)
				must.NoError(t, b.End(t.Context(), "preempted", false))
				time.Sleep(5 * time.Second)
				must.NoError(t, a.End(t.Context(), "preempted", true))
			})
			must.NoError(t, err)
			must.Between(t, 10*time.Second, took, 11*time.Second)
		})
	})
	t.Run("one is gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			took, err := await(t, func(_ context.Context, o Owner) bool {
				return o.Alloc == "a" && o.Node == "node-of-a" && time.Since(begin) > 3*time.Second
			}, func(_ *mem, _, b *Session) { must.NoError(t, b.End(t.Context(), "preempted", false)) })
			must.NoError(t, err)
			must.Between(t, 3*time.Second, took, 5*time.Second)
		})
	})
	t.Run("in vain", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			took, err := await(t, never, func(_ *mem, _, b *Session) { must.NoError(t, b.End(t.Context(), "preempted", false)) })
			must.Eq(t, time.Minute, took)
			must.ErrorIs(t, err, context.DeadlineExceeded)
			must.ErrorContains(t, err, "allocation a on node node-of-a has not finished with its checkpoints (epoch 1)")
			var await *AwaitError
			must.True(t, errors.As(err, &await))
			must.Len(t, 1, await.Tenures)
		})
	})
	t.Run("the store fails for a while", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, err := await(t, never, func(store *mem, a, b *Session) {
				time.Sleep(5 * time.Second)
				store.cmu.Lock()
				store.plan = []fault{before, before, before}
				store.cmu.Unlock()
				time.Sleep(10 * time.Second)
				must.NoError(t, a.End(t.Context(), "preempted", false))
				must.NoError(t, b.End(t.Context(), "preempted", false))
			})
			must.NoError(t, err)
		})
	})
	t.Run("an owner cannot be read", func(t *testing.T) {
		store := &mem{shared: newShared()}
		c := open(t, store, Options{})
		claim(t, c, "a")
		b := claim(t, c, "b")
		store.put(prefix+"00000001/owner", "?")
		asked := 0
		err := c.AwaitEnd(t.Context(), "c", time.Second, func(_ context.Context, o Owner) bool {
			must.Eq(t, "b", o.Alloc)
			asked++
			if asked == 3 {
				must.NoError(t, b.End(t.Context(), "preempted", false))
			}
			return false
		})
		must.Eq(t, 3, asked)
		var damaged *DamagedError
		must.True(t, errors.As(err, &damaged), must.Sprint(err))
		must.Eq(t, prefix+"00000001/owner", damaged.Name)
	})
	t.Run("the store refuses", func(t *testing.T) {
		store := &mem{shared: newShared(), plan: []fault{refuse}}
		err := open(t, store, Options{}).AwaitEnd(t.Context(), "a", time.Second, never)
		must.ErrorIs(t, err, ErrRefused)
	})
}
