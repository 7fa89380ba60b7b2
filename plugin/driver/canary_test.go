package driver

import (
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
)

func canary(is bool) func(*api.Allocation) {
	return func(a *api.Allocation) { a.DeploymentStatus = &api.AllocDeploymentStatus{Canary: is} }
}

// A canary has the place of an allocation that runs on. It is given that one's
// last state, and saves none that would count for more.
func TestCanary_SavesNothing(t *testing.T) {
	r := newRig(t)
	r.saved(t, "one")
	before := r.place(t, checkpointed(""))
	before.start(t)
	p := r.place(t, checkpointed(""))
	r.n.set(t, p.cfg.AllocID, canary(true))
	inTime(t, 10*time.Second, func() { p.start(t) })
	must.Eq(t, []string{"start", "restore one"}, p.all())
	p.app.set("of the canary")
	code, text := ask(t, over(t, ownSocket(p.cfg)), http.MethodPost, "/v1/save", nil)
	must.Eq(t, http.StatusConflict, code)
	must.StrContains(t, text, "the allocation is a canary, and saves nothing before it is promoted")
	r.n.set(t, p.cfg.AllocID, drained)
	must.StrContains(t, p.leave(t, time.Minute), "no checkpoint: the allocation is a canary")
	must.Eq(t, 0, p.count("save"))

	before.app.set("two")
	r.n.set(t, before.cfg.AllocID, drained)
	must.StrContains(t, before.leave(t, time.Minute), "checkpoint 2/1 saved")
	next := r.place(t, checkpointed(""))
	next.start(t)
	must.Eq(t, []string{"start", "restore two"}, next.all())
}

// One that was promoted is like any other.
func TestCanary_IsPromoted(t *testing.T) {
	r := newRig(t)
	before := r.place(t, checkpointed(""))
	before.start(t)
	p := r.place(t, checkpointed(""))
	r.n.set(t, p.cfg.AllocID, canary(true))
	p.start(t)
	r.n.set(t, p.cfg.AllocID, canary(false))
	p.app.set("new")
	var saved manage.Checkpoint
	code, text := ask(t, over(t, ownSocket(p.cfg)), http.MethodPost, "/v1/save", &saved)
	must.Eq(t, http.StatusOK, code, must.Sprint(text))
	must.Eq(t, "2/1", saved.Version)

	// Nomad stops the old one now. What it still saves is older.
	before.app.set("old")
	r.n.set(t, before.cfg.AllocID, notNeeded)
	before.leave(t, time.Minute)
	next := r.place(t, checkpointed(""))
	next.start(t)
	must.Eq(t, []string{"start", "restore new"}, next.all())
}
