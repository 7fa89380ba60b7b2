package driver

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
)

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
	wg.Wait()
	must.Eq(t, 1, most)
	must.SliceContainsAll(t, []string{"1/1", "1/2", "1/3", "1/4"}, versions)
}

// A stop that meets a save waits for it, and saves once more: the one under way
// may have begun before the prestop hooks.
func TestSave_StopMeetsAnother(t *testing.T) {
	r := newRig(t)
	p := r.place(t, checkpointed(""))
	release := make(chan struct{})
	p.app.answers(func(w http.ResponseWriter, req *http.Request) {
		<-release
		answering(http.StatusOK, "before the stop")(w, req)
	})
	p.start(t)
	c := over(t, ownSocket(p.cfg))
	saved := make(chan string, 1)
	go func() {
		var s manage.Checkpoint
		ask(t, c, http.MethodPost, "/v1/save", &s)
		saved <- s.Version
	}()
	eventually(t, "save", func() bool { return p.count("save") == 1 })
	r.n.set(t, p.cfg.AllocID, drained)
	task, err := p.d.task(p.cfg.ID)
	must.NoError(t, err)
	text := make(chan string, 1)
	go func() { text <- p.leave(t, time.Minute) }()
	eventually(t, "the stop's save", func() bool { return task.machine.State() == lifecycle.Saving })
	p.app.set("after the hooks")
	close(release)
	must.Eq(t, "1/1", receive(t, saved))
	must.StrContains(t, receive(t, text), "checkpoint 1/2 saved: 15 B")
	next := r.place(t, checkpointed(""))
	next.start(t)
	must.Eq(t, []string{"start", "restore after the hooks"}, next.all())
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
