package driver

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
)

// successor is a new plugin process on the node of p, which has ended. It takes
// the running task up.
func (r *rig) successor(t *testing.T, p *place, handle *drivers.TaskHandle) *place {
	t.Helper()
	next := &place{setup: newSetup(t, ""), app: p.app}
	must.NoError(t, configureAgent(t, next.d, r.n.agent(r.stores())))
	must.NoError(t, next.h.RecoverTask(decoded(t, handle)))
	next.cfg = p.cfg
	return next
}

// dying is a place whose plugin process can be ended.
func (r *rig) dying(t *testing.T, text string) (p *place, die func()) {
	t.Helper()
	p = r.place(t, text)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	p.d = New(ctx, "lifecycle-fake", p.fake, testLogger())
	p.h = p.d // without gRPC, which would outlive the process
	must.NoError(t, configureAgent(t, p.d, r.n.agent(r.stores())))
	return p, func() { cancel(); p.d.background.Wait() }
}

// A plugin that starts again goes on in the epoch of the one before: nobody
// else has begun to use the state.
func TestResume_KeepsTheEpoch(t *testing.T) {
	r := newRig(t)
	p, die := r.dying(t, checkpointed("", httpHook("prestop", "prestop", "")))
	handle := p.start(t)
	c := over(t, ownSocket(p.cfg))
	p.app.set("one")
	code, text := ask(t, c, http.MethodPost, "/v1/save", nil)
	must.Eq(t, http.StatusOK, code, must.Sprint(text))
	c.CloseIdleConnections()
	die()

	next := r.successor(t, p, handle)
	must.Eq(t, []string{"recover version 1 pid 42"}, next.all())
	// The socket is there again, at the same place, and the chain goes on.
	c = over(t, ownSocket(p.cfg))
	p.app.set("two")
	var saved manage.Checkpoint
	code, text = ask(t, c, http.MethodPost, "/v1/save", &saved)
	must.Eq(t, http.StatusOK, code, must.Sprint(text))
	must.Eq(t, "1/2", saved.Version)
	p.app.set("three")
	r.n.set(t, p.cfg.AllocID, drained)
	must.StrContains(t, next.leave(t, time.Minute), "checkpoint 1/3 saved")
	must.Eq(t, []string{"start", "save", "save", "hook /prestop", "save"}, p.all())

	last := r.place(t, checkpointed(""))
	last.start(t)
	must.Eq(t, []string{"start", "restore three"}, last.all())
}

// A recovery asks nobody: Nomad's client does not start before it is done.
func TestResume_AsksNobody(t *testing.T) {
	r := newRig(t)
	p, die := r.dying(t, checkpointed(""))
	handle := p.start(t)
	die()
	back := r.losing(t)
	speak := r.n.silence()
	next := &place{setup: newSetup(t, ""), app: p.app}
	must.NoError(t, configureAgent(t, next.d, r.n.agent(r.stores())))
	inTime(t, 5*time.Second, func() { must.NoError(t, next.h.RecoverTask(decoded(t, handle))) })
	next.cfg = p.cfg
	back()
	speak()
	r.n.set(t, p.cfg.AllocID, drained)
	must.StrContains(t, next.leave(t, time.Minute), "checkpoint 1/1 saved")
}

// Regular saves go on after a restart of the plugin, and so does early notice.
func TestResume_IntervalAndNotice(t *testing.T) {
	r := newRig(t)
	p, die := r.dying(t, checkpointed("interval = \"1s\""))
	handle := p.start(t)
	die()
	before := p.count("save")
	next := r.successor(t, p, handle)
	notices := listen(t, over(t, ownSocket(p.cfg)), "/v1/events")
	eventually(t, "regular save", func() bool { return p.count("save") > before })
	eventually(t, "stream of the allocation", func() bool { return r.n.followed(p.cfg.AllocID) })
	r.n.set(t, p.cfg.AllocID, drained)
	until(t, notices, "early notice", func(n notice) bool { return n.name == "stopping_soon" })
	next.leave(t, time.Minute)
}

// A plugin that dies while it saves has the stop asked for again, and then
// saves.
func TestResume_DiesInASave(t *testing.T) {
	r := newRig(t)
	p, die := r.dying(t, checkpointed("", httpHook("prestop", "prestop", "")))
	handle := p.start(t)
	r.n.set(t, p.cfg.AllocID, drained)
	p.app.answers(hanging)
	done := make(chan error, 1)
	p.StopTaskF = func(string, time.Duration, string) error { return context.Canceled }
	go func() { done <- p.d.StopTask(p.cfg.ID, time.Minute, "") }()
	eventually(t, "save runs", func() bool { return p.count("save") == 1 })
	die()
	must.Error(t, receive(t, done))

	p.app.set("the state")
	next := r.successor(t, p, handle)
	must.StrContains(t, next.leave(t, time.Minute), "checkpoint 1/1 saved")
	must.Eq(t, 1, p.count("hook /prestop"))
	must.Eq(t, 2, p.count("save"))
}
