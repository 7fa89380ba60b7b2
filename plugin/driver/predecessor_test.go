package driver

import (
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// An allocation that has been in this one's place and still has to save is
// waited for. Nomad itself starts the replacement of one that was preempted at
// once.
func TestPredecessor_IsWaitedFor(t *testing.T) {
	for name, decide := range map[string]func(*api.Allocation){"drained": drained, "preempted": preempted} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			before := r.place(t, checkpointed(""))
			before.start(t)
			r.n.set(t, before.cfg.AllocID, decide)
			path := "/v1/allocation/" + before.cfg.AllocID
			asked := r.n.count(path)

			p := r.place(t, checkpointed(""))
			done := p.background(t.Context())
			eventually(t, "the one before is looked at again and again", func() bool { return r.n.count(path) >= asked+3 })
			must.SliceEmpty(t, p.all())
			before.app.set("the last")
			before.leave(t, time.Minute)
			must.NoError(t, receive(t, done))
			must.Eq(t, []string{"start", "restore the last"}, p.all())
		})
	}
}

// It is not waited for if it does not stop, has ended, or is not known.
func TestPredecessor_IsNotWaitedFor(t *testing.T) {
	cases := map[string]func(*testing.T, *fakeNomad, string){
		"runs on": func(*testing.T, *fakeNomad, string) {},
		"lost": func(t *testing.T, n *fakeNomad, id string) {
			n.set(t, id, drained)
			n.set(t, id, terminal(api.AllocClientStatusLost))
		},
		"unknown": func(t *testing.T, n *fakeNomad, id string) {
			n.set(t, id, drained)
			n.set(t, id, terminal(api.AllocClientStatusUnknown))
		},
		"complete": func(t *testing.T, n *fakeNomad, id string) {
			n.set(t, id, drained)
			n.set(t, id, terminal(api.AllocClientStatusComplete))
		},
		"forgotten": func(_ *testing.T, n *fakeNomad, id string) { n.forget("/v1/allocation/" + id) },
	}
	for name, decide := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.saved(t, "one")
			before := r.place(t, checkpointed(""))
			before.start(t)
			decide(t, r.n, before.cfg.AllocID)
			p := r.place(t, checkpointed(""))
			var text string
			inTime(t, 10*time.Second, func() { text = p.begun(t) })
			must.StrNotContains(t, text, "wait")
			must.Eq(t, []string{"start", "restore one"}, p.all())
		})
	}
}

// The wait has an end. What comes later is kept, and told, but does not count.
func TestPredecessor_IsLate(t *testing.T) {
	r := newRig(t)
	r.saved(t, "one")
	before := r.place(t, checkpointed(""))
	before.app.set("late")
	before.start(t)
	r.n.set(t, before.cfg.AllocID, drained)
	p := r.place(t, checkpointed("wait = \"1s\""))
	text := p.begun(t)
	must.StrContains(t, text, "did not wait longer than 1s for allocation "+before.cfg.AllocID[:8])
	must.Eq(t, []string{"start", "restore one"}, p.all())

	text = before.leave(t, time.Minute)
	must.StrContains(t, text, "allocation "+p.cfg.AllocID[:8]+" has taken this one's place already, without this checkpoint")
	p.app.set("newer")
	p.leave(t, time.Minute)
	next := r.place(t, checkpointed(""))
	next.start(t)
	must.Eq(t, []string{"start", "restore newer"}, next.all())
}

// A Nomad that says nothing leaves only the time to wait.
func TestPredecessor_NomadIsSilent(t *testing.T) {
	r := newRig(t)
	r.saved(t, "one")
	before := r.place(t, checkpointed(""))
	before.start(t)
	p := r.place(t, checkpointed("wait = \"1s\""))
	r.n.close()
	must.StrContains(t, p.begun(t), "did not wait longer than 1s for allocation "+before.cfg.AllocID[:8])
}

// Not to wait at all is a choice, and no reason to fail: a store takes a moment
// to answer.
func TestPredecessor_NoWait(t *testing.T) {
	r, c := newRig(t), newConsul(t)
	c.delay = 20 * time.Millisecond
	first := r.byConsul(t, c.url, "wait = \"0s\"")
	first.app.set("one")
	first.start(t)
	first.leave(t, time.Minute)
	before := r.byConsul(t, c.url, "wait = \"0s\"")
	before.start(t)
	r.n.set(t, before.cfg.AllocID, drained)
	p := r.byConsul(t, c.url, "wait = \"0s\"")
	p.start(t)
	must.Eq(t, []string{"start", "restore one"}, p.all())
}

// The wait can end while the store is being asked. That is no failure of the
// store.
func TestPredecessor_IsLateBySlowStore(t *testing.T) {
	r, c := newRig(t), newConsul(t)
	before := r.byConsul(t, c.url, "")
	before.start(t)
	r.n.set(t, before.cfg.AllocID, drained)
	c.delay = 600 * time.Millisecond
	p := r.byConsul(t, c.url, "wait = \"1s\"")
	must.StrContains(t, p.begun(t), "did not wait longer than 1s for allocation "+before.cfg.AllocID[:8])
}

// A store that does not answer is given up after its own time, however long the
// predecessor would be waited for.
func TestPredecessor_StoreHasItsOwnTime(t *testing.T) {
	r, c := newRig(t), newConsul(t)
	c.fails(500)
	p := r.byConsul(t, c.url, "wait = \"1h\"\non_restore_failure = \"cold\"")
	p.d.storeLimit = time.Second
	inTime(t, 10*time.Second, func() {
		must.StrContains(t, p.begun(t), "cold start, because no checkpoint could be fetched: ")
	})
}

// An allocation that started without the store cannot be waited for. Whatever it
// saves when the store is back must not come before what its replacement, which
// has taken its place meanwhile, saves.
func TestPredecessor_StartedWithoutTheStore(t *testing.T) {
	r, c := newRig(t), newConsul(t)
	c.fails(403)
	before := r.byConsul(t, c.url, "on_restore_failure = \"cold\"")
	before.app.set("old")
	before.start(t)
	c.fails(0)
	p := r.byConsul(t, c.url, "")
	p.app.set("new")
	p.start(t)

	r.n.set(t, before.cfg.AllocID, drained)
	text := before.leave(t, time.Minute)
	must.StrContains(t, text, "checkpoint NOT saved: allocation "+p.cfg.AllocID[:8]+" has taken this one's place")
	must.Eq(t, 0, before.count("save"))
	r.n.set(t, p.cfg.AllocID, drained)
	must.StrContains(t, p.leave(t, time.Minute), "checkpoint 1/1 saved")
	next := r.byConsul(t, c.url, "")
	next.start(t)
	must.Eq(t, []string{"start", "restore new"}, next.all())
}
