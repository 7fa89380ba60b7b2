package driver

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

// Between its allocations, a task saves when it asks for it, and regularly.
func TestSave_Asked(t *testing.T) {
	r := newRig(t)
	p := r.place(t, checkpointed(""))
	p.app.set("one")
	p.start(t)
	c := over(t, ownSocket(p.cfg))
	var saved manage.Checkpoint
	code, text := ask(t, c, http.MethodPost, "/v1/save", &saved)
	must.Eq(t, http.StatusOK, code, must.Sprint(text))
	must.Eq(t, "1/1", saved.Version)
	must.Eq(t, 3, saved.Bytes)
	must.False(t, saved.Saved.IsZero())
	var st apiStatus
	ask(t, c, http.MethodGet, "/v1/state", &st)
	must.True(t, saved.Saved.Equal(st.Checkpoint.Saved))
	must.Eq(t, "1/1", st.Checkpoint.Version)
	ev := p.told(t, "/state")
	must.Eq(t, "", ev.Reason)
	must.Eq(t, 0, ev.KillMS)

	p.app.answers(answering(http.StatusNoContent, ""))
	code, text = ask(t, c, http.MethodPost, "/v1/save", nil)
	must.Eq(t, http.StatusConflict, code)
	must.StrContains(t, text, "the task has no state to save")
	p.app.answers(answering(http.StatusOK, strings.Repeat("x", DefaultMaxSize+1)))
	code, text = ask(t, c, http.MethodPost, "/v1/save", nil)
	must.Eq(t, http.StatusRequestEntityTooLarge, code)
	must.StrContains(t, text, "the answer is too large")
	p.app.answers(answering(http.StatusInternalServerError, "no"))
	code, _ = ask(t, c, http.MethodPost, "/v1/save", nil)
	must.Eq(t, http.StatusBadGateway, code)

	// It is what a crash goes back to.
	p.only(t).finish(&drivers.ExitResult{ExitCode: 1})
	eventually(t, "end of the process", func() bool {
		ask(t, c, http.MethodGet, "/v1/state", &st)
		return st.State == "stopped"
	})
	code, text = ask(t, c, http.MethodPost, "/v1/save", nil)
	must.Eq(t, http.StatusConflict, code)
	must.StrContains(t, text, "the task is stopped")
	must.NoError(t, p.h.DestroyTask(p.cfg.ID, false))
	next := r.place(t, checkpointed(""))
	next.start(t)
	must.Eq(t, []string{"start", "restore one"}, next.all())
}

// Saves do not meet in the application, and each has its version.
func TestSave_AtOnce(t *testing.T) {
	r := newRig(t)
	p := r.place(t, checkpointed("keep = 10"))
	var mu sync.Mutex
	running, most := 0, 0
	p.app.answers(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		time.Sleep(20 * time.Millisecond) // so that they meet, if they can
		mu.Lock()
		running--
		mu.Unlock()
		answering(http.StatusOK, "the state")(w, req)
	})
	p.start(t)
	c := over(t, ownSocket(p.cfg))
	var wg sync.WaitGroup
	versions := make([]string, 4)
	for i := range versions {
		wg.Go(func() {
			var saved manage.Checkpoint
			code, text := ask(t, c, http.MethodPost, "/v1/save", &saved)
			if code != http.StatusOK {
				t.Error(text)
			}
			versions[i] = saved.Version
		})
	}
	eventually(t, "first save", func() bool { return p.count("save") > 0 })
	r.n.set(t, p.cfg.AllocID, drained)
	text := p.leave(t, time.Minute)
	wg.Wait()
	must.Eq(t, 1, most)
	_, last, told := strings.Cut(text, "checkpoint ")
	must.True(t, told, must.Sprint(text))
	last, _, _ = strings.Cut(last, " saved")
	must.SliceContainsAll(t, []string{"1/1", "1/2", "1/3", "1/4", "1/5"}, append(versions, last))
}

// A regular save that fails is told once, and tried again.
func TestSave_Regularly(t *testing.T) {
	r := newRig(t)
	p := r.place(t, checkpointed("interval = \"1s\""))
	p.app.answers(answering(http.StatusServiceUnavailable, "not now"))
	events := collect(t, p.setup)
	p.start(t)
	eventually(t, "two saves that fail", func() bool { return p.count("save") >= 2 })
	p.app.set("the state")
	path := filepath.Join(r.dir, "lifecycle/checkpoints/prod/shop/front/0/web/00000001/00000001.json")
	eventually(t, "one that does not", func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
	told := 0
	for _, text := range messages(events()) {
		if strings.Contains(text, "checkpoint NOT saved, will be tried again every 1s: lifecycle.checkpoint.save.http failed") {
			told++
		}
	}
	must.Eq(t, 1, told)
	data, err := os.ReadFile(path)
	must.NoError(t, err)
	must.StrContains(t, string(data), `"reason": "interval"`)

	// A crash costs what came after it.
	result := p.waitTask(t)
	p.only(t).finish(&drivers.ExitResult{Signal: 9})
	wait(t, result)
	must.NoError(t, p.h.DestroyTask(p.cfg.ID, false))
	next := r.place(t, checkpointed(""))
	next.start(t)
	must.Eq(t, []string{"start", "restore the state"}, next.all())
}

// A store that hangs does not keep the task from asking for its state.
func TestSave_StateIsAnsweredMeanwhile(t *testing.T) {
	r, consul := newRig(t), newConsul(t)
	consul.fails(403)
	p := r.byConsul(t, consul.url, "wait = \"0s\"\non_restore_failure = \"cold\"")
	p.start(t) // without a claim
	consul.fails(0)
	release := consul.holds()
	defer release()
	c := over(t, ownSocket(p.cfg))
	saved := make(chan int, 1)
	go func() {
		code, _ := ask(t, c, http.MethodPost, "/v1/save", nil)
		saved <- code
	}()
	eventually(t, "save is under way", func() bool {
		task, err := p.d.task(p.cfg.ID)
		return err == nil && len(task.checkpoint.taking) == 1
	})
	quick := *c
	quick.Timeout = 3 * time.Second
	time.Sleep(100 * time.Millisecond) // for the claim to begin, which nothing tells
	code, _ := ask(t, &quick, http.MethodGet, "/v1/state", nil)
	must.Eq(t, http.StatusOK, code)
	release()
	must.Eq(t, http.StatusOK, receive(t, saved))
}
