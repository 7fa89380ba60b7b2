package driver

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
	"github.com/nomad-patterns/nomad-patterns/plugin/reason"
)

// recording is what Nomad's servers answered when a task was stopped, as package
// reason keeps it.
type recording struct {
	Task      string
	Alloc     json.RawMessage
	AllocGone bool `json:"alloc_gone"`
	Job       json.RawMessage
	JobGone   bool `json:"job_gone"`
	Node      json.RawMessage
	Want      struct {
		Decided bool
		Reason  string
		Final   bool
		Detail  string
	}
}

// recordings are those in which a stop has been decided. All else is what package
// reason makes of it.
func recordings(t *testing.T) map[string]recording {
	t.Helper()
	files, err := filepath.Glob("../reason/testdata/*.json")
	must.NoError(t, err)
	must.Positive(t, len(files))
	all := make(map[string]recording)
	for _, file := range files {
		data, err := os.ReadFile(file)
		must.NoError(t, err)
		var r recording
		must.NoError(t, json.Unmarshal(data, &r), must.Sprint(file))
		if r.Want.Decided {
			all[strings.TrimSuffix(filepath.Base(file), ".json")] = r
		}
	}
	return all
}

const stopHooks = "prestop {\n http {\n url = \"URL/prestop\"\n }\n}\npoststop {\n http {\n url = \"URL/poststop\"\n }\n}\n"

// Whatever the servers say of a stop reaches the hooks, the task events and the
// status.
func TestReason_Recorded(t *testing.T) {
	for name, rec := range recordings(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNomad(t)
			s := newSetup(t, "")
			must.NoError(t, configureAgent(t, s.d, n.agent("")))

			var alloc api.Allocation
			must.NoError(t, json.Unmarshal(rec.Alloc, &alloc))
			s.cfg = taskIn(t, s.cfg.AllocDir, alloc.ID, rec.Task)
			s.cfg.Namespace, s.cfg.JobID, s.cfg.TaskGroupName, s.cfg.NodeID = alloc.Namespace, alloc.JobID, alloc.TaskGroup, alloc.NodeID
			s.configure(t, block(stopHooks))
			events := collect(t, s)
			before := alloc
			before.DesiredStatus, before.DesiredDescription, before.PreemptedByAllocation = api.AllocDesiredStatusRun, "", ""
			before.DesiredTransition, before.TaskStates = api.DesiredTransition{}, nil
			n.answer(t, "/v1/allocation/"+alloc.ID, before)
			s.start(t)
			n.answer(t, "/v1/node/"+alloc.NodeID, rec.Node)
			n.answer(t, "/v1/job/"+alloc.JobID, rec.Job)
			n.answer(t, "/v1/allocation/"+alloc.ID, rec.Alloc)
			for path, gone := range map[string]bool{"/v1/job/" + alloc.JobID: rec.JobGone, "/v1/allocation/" + alloc.ID: rec.AllocGone} {
				if gone {
					n.forget(path)
				}
			}
			result := s.waitTask(t)
			must.NoError(t, s.h.StopTask(s.cfg.ID, 20*time.Second, ""))
			wait(t, result)

			for _, path := range []string{"/prestop", "/poststop"} {
				ev := s.told(t, path)
				must.Eq(t, rec.Want.Reason, ev.Reason)
				must.Eq(t, rec.Want.Final, ev.Final)
				must.Eq(t, rec.Want.Detail, ev.Detail)
				if path == "/prestop" {
					must.Between(t, 5_000, ev.KillMS, 20_000)
				} else {
					must.Eq(t, 0, ev.KillMS) // there is nothing left to kill
				}
			}
			ev := only(t, events(), "stopping")
			must.Eq(t, rec.Want.Reason, ev.Annotations["reason"])
			must.StrHasPrefix(t, "stopping: "+rec.Want.Reason, ev.Message)
			must.StrContains(t, ev.Message, rec.Want.Detail)
		})
	}
}

// The deadline of each hook is its own, and the kill is that of the task.
func TestReason_Deadline(t *testing.T) {
	s, n := newSetupWith(t, block(httpHook("prestop", "short", `timeout = "5s"`), httpHook("prestop", "long", `timeout = "1h"`)))
	s.start(t)
	n.set(t, s.cfg.AllocID, drained)
	begin := time.Now()
	must.NoError(t, s.h.StopTask(s.cfg.ID, 30*time.Second, ""))
	short, long := s.told(t, "/short"), s.told(t, "/long")
	must.Eq(t, "drained", short.Reason)
	must.Eq(t, "alloc is being migrated", short.Detail)
	must.Between(t, 1, short.RemainingMS, 5_000)
	must.Between(t, 15_000, short.KillMS, 30_000)
	must.Between(t, 15_000, long.RemainingMS, 30_000)
	must.True(t, long.Deadline.After(begin.Add(15*time.Second)))
	must.False(t, long.Deadline.After(begin.Add(31*time.Second)))
}

// A Nomad that does not say why costs at most a second, and no hook.
func TestReason_Unknown(t *testing.T) {
	cases := map[string]struct {
		break_ func(t *testing.T, s *setup, n *fakeNomad)
		within time.Duration
	}{
		"refuses": {func(t *testing.T, s *setup, _ *fakeNomad) {
			must.NoError(t, configureAgent(t, s.d, "lifecycle {\n nomad {\n address = \""+nowhere+"\"\n }\n}\n"))
		}, 900 * time.Millisecond},
		"hangs": {func(t *testing.T, _ *setup, n *fakeNomad) { t.Cleanup(n.silence()) }, 3 * time.Second},
		"does not know the allocation": {func(_ *testing.T, s *setup, n *fakeNomad) {
			n.forget("/v1/allocation/" + s.cfg.AllocID)
		}, 3 * time.Second},
		"answers nonsense": {func(_ *testing.T, s *setup, n *fakeNomad) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.answers["/v1/allocation/"+s.cfg.AllocID] = []byte("<html>")
		}, 3 * time.Second},
		"answers another": {func(t *testing.T, s *setup, n *fakeNomad) {
			n.answer(t, "/v1/allocation/"+s.cfg.AllocID, &api.Allocation{ID: "x", DesiredStatus: "stop"})
		}, 3 * time.Second},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s, n := newSetupWith(t, block(stopHooks))
			s.start(t)
			tc.break_(t, s, n)
			result := s.waitTask(t)
			begin := time.Now()
			must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, ""))
			took := time.Since(begin)
			wait(t, result)
			must.Less(t, tc.within, took) // the limit is a second; the rest is a busy machine's
			for _, path := range []string{"/prestop", "/poststop"} {
				ev := s.told(t, path)
				must.Eq(t, "unknown", ev.Reason)
				must.False(t, ev.Final)
			}
		})
	}
}

// A kill_timeout of less than a second is all the time there is.
func TestReason_ShortKillTimeout(t *testing.T) {
	s, n := newSetupWith(t, block(stopHooks))
	s.start(t)
	t.Cleanup(n.silence())
	var given time.Duration
	stop := s.StopTaskF
	s.StopTaskF = func(id string, d time.Duration, signal string) error {
		given = d
		return stop(id, d, signal)
	}
	result := s.waitTask(t)
	must.NoError(t, s.h.StopTask(s.cfg.ID, 200*time.Millisecond, ""))
	wait(t, result)
	must.Eq(t, 200*time.Millisecond, given)
	must.Eq(t, "unknown", s.told(t, "/poststop").Reason)
}

// A process that ends by itself has its own reason, and Nomad is not asked.
func TestReason_OwnEnd(t *testing.T) {
	cases := map[string]struct {
		result *drivers.ExitResult
		reason string
		detail string
	}{
		"success": {&drivers.ExitResult{}, "completed", "it ended with exit code 0"},
		"failure": {&drivers.ExitResult{ExitCode: 3}, "failed", "it ended with exit code 3"},
		"signal":  {&drivers.ExitResult{Signal: 11, ExitCode: 139}, "failed", "it ended with signal 11"},
		"memory":  {&drivers.ExitResult{ExitCode: 0, OOMKilled: true}, "failed", "it ended with exit code 0"},
		"lost":    {&drivers.ExitResult{ExitCode: -1, Err: errors.New("lost sight of it")}, "failed", "lost sight of it"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s, _ := newSetupWith(t, block(stopHooks))
			events := collect(t, s)
			s.start(t)
			result := s.waitTask(t)
			s.only(t).finish(tc.result)
			wait(t, result)
			ev := s.told(t, "/poststop")
			must.Eq(t, tc.reason, ev.Reason)
			must.Eq(t, tc.detail, ev.Detail)
			must.False(t, ev.Final)
			must.Eq(t, 0, ev.KillMS)
			must.Eq(t, 0, s.count("hook /prestop"))

			told := only(t, events(), "stopped")
			must.Eq(t, tc.reason, told.Annotations["reason"])
			must.StrHasPrefix(t, "stopped: "+tc.reason+" ("+tc.detail+") (running ", told.Message)

			// Nomad's stop that follows changes nothing.
			must.NoError(t, s.h.StopTask(s.cfg.ID, time.Second, ""))
			task, err := s.d.task(s.cfg.ID)
			must.NoError(t, err)
			st, _ := task.machine.Status()
			must.Eq(t, tc.reason, st.Stop.Reason)
			must.Eq(t, lifecycle.Stopped, st.State)
		})
	}
}

// A destroy by force in the middle of a stop, which Nomad does when it gives up,
// ends both.
func TestReason_DestroyedMeanwhile(t *testing.T) {
	s, n := newSetupWith(t, block(stopHooks))
	s.start(t)
	task, err := s.d.task(s.cfg.ID)
	must.NoError(t, err)
	speak := n.silence()
	defer speak()
	asked := n.count("/v1/allocation/" + s.cfg.AllocID)
	done := make(chan error, 1)
	go func() { done <- s.h.StopTask(s.cfg.ID, time.Minute, "") }()
	eventually(t, "Nomad is asked why", func() bool { return n.count("/v1/allocation/"+s.cfg.AllocID) > asked })
	// Before anybody has noticed that the process has ended.
	task.machine.To(lifecycle.Destroyed, nil)
	must.NoError(t, receive(t, done))
	must.NoError(t, s.h.DestroyTask(s.cfg.ID, true))
	s.forgotten(t)
}

// Every reason that there is can be told.
func TestReason_All(t *testing.T) {
	seen := map[string]bool{}
	for _, rec := range recordings(t) {
		seen[rec.Want.Reason] = true
	}
	for _, r := range reason.Reasons() {
		if r == reason.Unknown {
			continue
		}
		must.True(t, seen[string(r)], must.Sprintf("no recording of %s", r))
	}
}
