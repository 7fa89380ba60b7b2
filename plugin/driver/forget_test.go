package driver

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// Nothing is left of a task that Nomad has destroyed: neither in the plugin nor
// at the servers. Goroutines are TestMain's to find.
func TestForget_AWholeLife(t *testing.T) {
	dir := endpointDir(t)
	s, n := newSetupWith(t, "")
	must.NoError(t, configureAgent(t, s.d, n.agent("endpoint {\n dir = \""+dir+"\"\n }")))
	s.configure(t, block("manage {\n}\n", groupHook("created", "created"), stopHooks))
	c := s.endpoint(t, dir)
	for i := range 2 { // a restart in place is no end of the allocation
		s.cfg.ID = s.cfg.AllocID + "/web/" + []string{"a", "b"}[i]
		s.start(t)
		eventually(t, "stream of the allocation", func() bool { return n.followed(s.cfg.AllocID) })
		must.Eq(t, []string{"web running"}, names(t, c))
		result := s.waitTask(t)
		must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, ""))
		wait(t, result)
		must.NoError(t, s.h.DestroyTask(s.cfg.ID, false))
		s.forgotten(t)
		must.MapEmpty(t, s.d.allocs)
		must.SliceEmpty(t, names(t, c))
	}
	eventually(t, "stream of the allocation has ended", func() bool { return !n.followed(s.cfg.AllocID) })
	must.Eq(t, 1, s.count("hook /created"))
}

// A start that fails leaves nothing either, wherever it does.
func TestForget_FailedStarts(t *testing.T) {
	cases := map[string]struct {
		more  string
		spoil func(t *testing.T, r *rig, p *place)
	}{
		"plan":      {"stop_after = [\"db\"]\n", func(*testing.T, *rig, *place) {}},
		"created":   {"group {\n created {\n http {\n url = \"URL/fail\"\n }\n }\n}\n", func(*testing.T, *rig, *place) {}},
		"prestart":  {httpHook("prestart", "fail", ""), func(*testing.T, *rig, *place) {}},
		"poststart": {httpHook("poststart", "fail", ""), func(*testing.T, *rig, *place) {}},
		"store": {"", func(t *testing.T, r *rig, p *place) {
			p.d.storeLimit = 100 * time.Millisecond
			t.Cleanup(r.losing(t))
		}},
		"restore": {"", func(_ *testing.T, _ *rig, p *place) { p.app.refusesRestore(http.StatusInternalServerError) }},
		"socket": {"", func(t *testing.T, _ *rig, p *place) {
			must.NoError(t, os.RemoveAll(p.cfg.TaskDir().SecretsDir))
		}},
		"inner": {"", func(_ *testing.T, _ *rig, p *place) {
			p.StartTaskF = func(*drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
				return nil, nil, errors.New("no such image")
			}
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.saved(t, "the state")
			p := r.place(t, checkpointed("", tc.more))
			if name == "plan" {
				job := parseJob(t, "job \"shop\" {\n group \"front\" {\n"+job("web", "lifecycle-fake", tc.more)+"}\n}\n")
				r.n.run(t, p.cfg, job)
			}
			tc.spoil(t, r, p)
			_, _, err := p.h.StartTask(p.cfg)
			must.Error(t, err)
			p.forgotten(t)
			r.n.set(t, p.cfg.AllocID, terminal(api.AllocClientStatusFailed))
			p.vanished(t)
			eventually(t, "stream of the allocation has ended", func() bool { return !r.n.followed(p.cfg.AllocID) })
			_, err = dialUnix(ownSocket(p.cfg))
			must.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

// An allocation with a state is remembered until it is known that it does not
// start again, unless that is known already.
func TestForget_Checkpoints(t *testing.T) {
	r := newRig(t)
	p := r.place(t, checkpointed(""))
	p.start(t)
	r.n.set(t, p.cfg.AllocID, drained)
	p.leave(t, time.Minute)
	r.n.set(t, p.cfg.AllocID, terminal(api.AllocClientStatusComplete))
	p.vanished(t)

	p = r.place(t, checkpointed(""))
	p.start(t)
	r.n.stopJob(t, p.cfg)
	p.leave(t, time.Minute)
	must.MapEmpty(t, p.d.allocs)
}

// A job that is stopped while its task waits for a restart has no state any more
// that a later start may take up.
func TestForget_JobStoppedBetweenStarts(t *testing.T) {
	r := newRig(t)
	p := r.place(t, checkpointed(""))
	p.app.set("old")
	p.start(t)
	c := over(t, ownSocket(p.cfg))
	code, text := ask(t, c, http.MethodPost, "/v1/save", nil)
	must.Eq(t, http.StatusOK, code, must.Sprint(text))
	eventually(t, "stream of the allocation", func() bool { return r.n.followed(p.cfg.AllocID) })
	result := p.waitTask(t)
	p.only(t).finish(&drivers.ExitResult{ExitCode: 1})
	wait(t, result)
	must.NoError(t, p.h.DestroyTask(p.cfg.ID, false))

	r.n.stopJob(t, p.cfg)
	eventually(t, "chain is closed", func() bool { return strings.Contains(strings.Join(r.objects(t), " "), "/final") })
	r.n.set(t, p.cfg.AllocID, terminal(api.AllocClientStatusComplete))
	p.vanished(t)
	next := r.place(t, checkpointed(""))
	must.StrContains(t, next.begun(t), "cold start: no checkpoint")
}

// The end of the plugin is not that of its tasks: nothing is said of them to
// anybody.
func TestForget_PluginEnds(t *testing.T) {
	r := newRig(t)
	p, die := r.dying(t, checkpointed("interval = \"1s\"", "manage {\n}\n"))
	p.start(t)
	eventually(t, "stream of the allocation", func() bool { return r.n.followed(p.cfg.AllocID) })
	die()
	eventually(t, "stream of the allocation has ended", func() bool { return !r.n.followed(p.cfg.AllocID) })
	must.SliceNotContains(t, r.objects(t), "00000001/end")
	must.Eq(t, 0, p.count("stop"))
	eventually(t, "socket is closed", func() bool {
		_, err := dialUnix(ownSocket(p.cfg))
		return err != nil
	})
}
