package election

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"
)

// TestLockLost: what others do to a leader's lock ends the term, and a new one follows.
func TestLockLost(t *testing.T) {
	const key = "election/leader/jobs"
	cases := map[string]struct {
		do  func(f *fakeConsul, m *model, session string)
		why string
	}{
		"session destroyed": {func(_ *fakeConsul, m *model, s string) { m.destroy(s) }, "session"},
		"key deleted":       {func(_ *fakeConsul, m *model, _ string) { m.deleteKey(key) }, "deleted"},
		"key overwritten":   {func(_ *fakeConsul, m *model, _ string) { m.put(key, []byte("mine")) }, "overwritten"},
		"key released":      {func(_ *fakeConsul, m *model, _ string) { m.release(key, nil) }, "released"},
		"all keys deleted": {func(_ *fakeConsul, m *model, _ string) {
			for k := range m.kv {
				m.deleteKey(k)
			}
		}, "deleted"},
		"agent restarted": {func(f *fakeConsul, m *model, _ string) {
			for id, c := range f.agents {
				c.timer.Stop()
				delete(f.agents, id)
				m.check(id, false)
			}
		}, "session"},
	}
	for name, c := range cases {
		for _, mode := range []Mode{Strict, Balanced, Fenced} {
			t.Run(name+"/"+string(mode), func(t *testing.T) {
				bubble(t, func(t *testing.T, f *fakeConsul) {
					e, _ := f.elector(t, Config{Mode: mode})
					f.free("jobs")
					cand := join(t, e, "jobs", Options{})
					l := lead(t, cand)
					time.Sleep(time.Minute)
					must.True(t, l.Valid())
					f.do(func(m *model) { c.do(f, m, m.kv[key].session) })
					time.Sleep(time.Second)
					if name == "agent restarted" && mode == Strict {
						must.True(t, l.Valid()) // its session does not hang on the agent
						return
					}
					must.ErrorIs(t, l.Err(), ErrLockLost)
					must.StrContains(t, l.Err().Error(), c.why)
					must.Greater(t, l.Token(), lead(t, cand).Token())
					time.Sleep(time.Minute)
					must.Eq(t, Health{Ready: true}, e.Health())
					must.True(t, cand.Leadership().Valid())
					f.do(func(m *model) {
						must.Eq(t, cand.Leadership().session, m.kv[key].session)
						must.MapContainsKey(t, m.kv, "election/candidate/"+e.ID())
					})
				})
			})
		}
	}
}

// TestLostAnswers: the lock was taken, and nobody knows. It is ours all the same.
func TestLostAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		e, w := f.elector(t, Config{})
		c := join(t, e, "jobs", Options{})
		time.Sleep(1200 * time.Millisecond) // the key was made, and is waited for
		w.set(lose, kindTxn)
		time.Sleep(2 * time.Second)
		k, r := f.state(t, "jobs")
		must.NotEq(t, "", k.session)
		must.Eq(t, stateHeld, r.State)
		must.Nil(t, c.Leadership())
		w.set(fine)
		before := e.clock.Now()
		must.GreaterEq(t, k.modify, lead(t, c).Token())
		must.LessEq(t, 4*time.Second, e.clock.Now()-before)
	})
}

// TestLostAnswerOfRelease: others lead although the release was never confirmed, and the
// one that resigned is a candidate as before.
func TestLostAnswerOfRelease(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		a, w := f.elector(t, Config{ID: "a"})
		b, _ := f.elector(t, Config{ID: "b"})
		f.free("jobs")
		ca := join(t, a, "jobs", Options{})
		la := lead(t, ca)
		cb := join(t, b, "jobs", Options{})
		time.Sleep(time.Second)
		w.set(lose, kindTxn)
		resigned := make(chan error, 1)
		go func() { resigned <- ca.Resign(deadline(t, time.Minute)) }()
		lb := lead(t, cb)
		must.Greater(t, la.Token(), lb.Token())
		w.set(fine)
		must.NoError(t, <-resigned)
		must.True(t, lb.Valid()) // the second release did not end b's term
		time.Sleep(time.Minute)
		must.True(t, lb.Valid())
		must.NoError(t, b.Close(t.Context()))
		must.True(t, lead(t, ca).Valid())
	})
}

// TestHungWatch: a blocking query that never answers again costs no leadership.
func TestHungWatch(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		a, w := f.elector(t, Config{ID: "a"})
		b, _ := f.elector(t, Config{ID: "b"})
		f.free("jobs")
		l := lead(t, join(t, a, "jobs", Options{}))
		cb := join(t, b, "other", Options{})
		time.Sleep(10 * time.Second)
		w.set(swallow, kindWatch)
		lead(t, cb) // something to miss
		synctest.Wait()
		w.set(fine)
		time.Sleep(10 * time.Second)
		must.True(t, l.Valid())
		s, err := a.Status("other")
		must.NoError(t, err)
		must.Eq(t, "b", s.Leader.ID)
	})
}

// TestRestore: the leader's lock is older than the snapshot, then younger.
func TestRestore(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		a, _ := f.elector(t, Config{ID: "a"})
		b, _ := f.elector(t, Config{ID: "b"})
		f.free("jobs")
		ca := join(t, a, "jobs", Options{Priority: 1})
		la := lead(t, ca)
		cb := join(t, b, "jobs", Options{})
		time.Sleep(5 * time.Second)
		var snap snapshot
		f.do(func(m *model) { snap = m.snapshot() })
		f.do(func(m *model) { m.put("election/leader/later", nil) })
		time.Sleep(time.Second)
		f.do(func(m *model) { m.restore(snap) })
		time.Sleep(5 * time.Second)
		must.True(t, la.Valid()) // it held the lock before, and it holds it now

		must.NoError(t, ca.Resign(t.Context()))
		lb := lead(t, cb)
		time.Sleep(5 * time.Second)
		f.do(func(m *model) { m.restore(snap) })
		restored := a.clock.Now()
		<-lb.Done()
		must.LessEq(t, 1500*time.Millisecond, a.clock.Now()-restored)
		var next *Leadership
		for next == nil {
			time.Sleep(10 * time.Millisecond)
			if next = ca.Leadership(); next == nil {
				next = cb.Leadership()
			}
			must.LessEq(t, 10*time.Second, a.clock.Now()-restored)
		}
		must.Greater(t, lb.Token(), next.Token())
		time.Sleep(time.Minute)
		must.True(t, next.Valid())
		must.Eq(t, Health{Ready: true}, a.Health())
		must.Eq(t, Health{Ready: true}, b.Health())
	})
}

func TestTwin(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		a, wa := f.elector(t, Config{ID: "a"})
		f.free("jobs")
		l := lead(t, join(t, a, "jobs", Options{}))
		twin, _ := f.elector(t, Config{ID: "a"})
		c := join(t, twin, "jobs", Options{})
		time.Sleep(time.Minute)
		must.True(t, l.Valid())
		must.Nil(t, c.Leadership())
		must.False(t, twin.Health().Ready)
		must.StrContains(t, twin.Health().Reason, `another live process is candidate "a" (service instance `+a.ServiceID()+")")
		wa.set(swallow) // the first one dies
		must.Greater(t, l.Token(), lead(t, c).Token())
		must.Eq(t, Health{Ready: true}, twin.Health())
	})
}

// TestTooFarAway: a leader whose answers come too late to be trusted must not keep the
// others from leading.
func TestTooFarAway(t *testing.T) {
	for _, mode := range []Mode{Balanced, Fenced} {
		t.Run(string(mode), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fakeConsul) {
				a, w := f.elector(t, Config{ID: "a", Mode: mode})
				b, _ := f.elector(t, Config{ID: "b", Mode: mode})
				f.free("jobs")
				l := lead(t, join(t, a, "jobs", Options{}))
				cb := join(t, b, "jobs", Options{})
				time.Sleep(10 * time.Second)
				w.slow(900 * time.Millisecond)
				<-l.Done()
				before := b.clock.Now()
				must.True(t, lead(t, cb).Valid())
				must.LessEq(t, 10*time.Second, b.clock.Now()-before)
			})
		})
	}
}

func TestFencedKV(t *testing.T) {
	bubble(t, func(t *testing.T, f *fakeConsul) {
		e, w := f.elector(t, Config{})
		f.free("jobs")
		c := join(t, e, "jobs", Options{})
		l := lead(t, c)
		set := func(key, value string) *api.KVTxnOp {
			return &api.KVTxnOp{Verb: api.KVSet, Key: key, Value: []byte(value)}
		}
		res, err := l.KV(t.Context(), api.KVTxnOps{set("x", "1"), {Verb: api.KVGet, Key: "x"}, {Verb: api.KVDelete, Key: "y"}})
		must.NoError(t, err)
		must.Len(t, 2, res)
		must.Eq(t, "1", string(res[1].Value))
		_, err = l.KV(t.Context(), api.KVTxnOps{set("x", "2"), {Verb: api.KVCAS, Key: "x", Index: 1, Value: nil}})
		must.ErrorIs(t, err, ErrConflict)
		must.StrContains(t, err.Error(), "operation 1")
		_, err = l.KV(t.Context(), nil)
		must.Error(t, err)
		_, err = l.KV(t.Context(), make(api.KVTxnOps, 127))
		must.Error(t, err)
		w.set(lose, kindTxn)
		_, err = l.KV(t.Context(), api.KVTxnOps{set("x", "3")})
		must.StrContains(t, err.Error(), "may have been carried out")
		w.set(fine)

		// Another one has the lock, and this process cannot know.
		w.set(swallow, kindWatch, kindRead)
		f.do(func(m *model) { m.put("election/leader/jobs", nil) })
		must.True(t, l.Valid())
		_, err = l.KV(t.Context(), api.KVTxnOps{set("x", "4")})
		must.ErrorIs(t, err, ErrNotLeader)
		x, _ := f.key("x")
		must.Eq(t, "3", string(x.value))
		<-l.Done()
		now := e.clock.Now()
		_, err = l.KV(t.Context(), api.KVTxnOps{set("x", "5")})
		must.ErrorIs(t, err, ErrNotLeader)
		must.Eq(t, now, e.clock.Now()) // it need not ask
	})
}
