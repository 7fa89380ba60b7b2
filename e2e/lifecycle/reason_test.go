package lifecycle_test

import (
	"context"
	"testing"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/rig"
)

const killTimeout = 10 * time.Second

// told checks what an allocation's hooks were told at its stop, and that it was
// asked for its state exactly if somebody is to take it up again.
func told(t *testing.T, r *rig.Rig, alloc, want string, final bool, filters ...rig.Filter) {
	t.Helper()
	of := func(what string, name ...string) []rig.Filter {
		return append([]rig.Filter{rig.OfAlloc(alloc), rig.Of(what, name...)}, filters...)
	}
	post := heard(t, r, "poststop of "+alloc, of(journal.Hook, "poststop")...)
	must.Eq(t, want, post.Told.Reason, must.Sprintf("poststop: %+v", post.Told))
	must.Eq(t, final, post.Told.Final)

	pre := heard(t, r, "prestop of "+alloc, of(journal.Hook, "prestop")...)
	must.Eq(t, want, pre.Told.Reason, must.Sprintf("prestop: %+v", pre.Told))
	must.Eq(t, final, pre.Told.Final)
	must.Eq(t, 1, pre.Told.Attempt)
	// All that comes before the signal has to be over by kill_timeout. Some of it
	// has gone for learning the reason.
	must.Between(t, 1, pre.Told.KillMS, killTimeout.Milliseconds())
	must.Between(t, 1, pre.Told.RemainingMS, pre.Told.KillMS)
	must.Between(t, -time.Second, pre.Told.Deadline.Sub(pre.At)-time.Duration(pre.Told.RemainingMS)*time.Millisecond, time.Second)

	saves := r.Recorder.All(append(of(journal.Saving), atStop)...)
	if final {
		must.SliceEmpty(t, saves)
		return
	}
	must.Len(t, 1, saves)
	must.Eq(t, want, saves[0].Told.Reason)
	must.Less(t, pre.Told.KillMS+1, saves[0].Told.KillMS)
}

func atStop(e journal.Entry) bool { return e.Told.Reason != "" }

// warm checks that an allocation began with a state.
func warm(t *testing.T, r *rig.Rig, alloc string, value int64, filters ...rig.Filter) {
	t.Helper()
	e := heard(t, r, "the state of "+alloc, append(filters, rig.OfAlloc(alloc),
		func(e journal.Entry) bool { return e.What == journal.Restored || e.What == journal.Corrupt })...)
	must.Eq(t, journal.Restored, e.What)
	must.Eq(t, value, e.Value)
}

// A node is drained, taken by a job of higher priority, or lost.
func TestReason_Node(t *testing.T) {
	r := shared(t)
	t.Run("drained", func(t *testing.T) {
		ctx := patient(t)
		a := up(t, r, rig.Job{Name: name(t)})[0]
		last := count(t, r, a.JobID, 0, 3)
		must.NoError(t, r.Drain(ctx, a.NodeID))
		told(t, r, a.ID, "drained", false)
		b := replaced(t, r, a)
		must.NotEq(t, a.NodeID, b.NodeID)
		warm(t, r, b.ID, last)
		must.True(t, hasEvent(over(t, r, a.ID), "stopping: drained"))
	})
	t.Run("preempted", func(t *testing.T) {
		ctx := patient(t)
		a := up(t, r, rig.Job{Name: name(t)})[0]
		last := count(t, r, a.JobID, 0, 3)
		end, err := r.Preempt(ctx, a.NodeID, name(t)+"-bully")
		must.NoError(t, err)
		t.Cleanup(func() { must.NoError(t, end(context.Background())) })
		told(t, r, a.ID, "preempted", false)
		b := replaced(t, r, a)
		must.NotEq(t, a.NodeID, b.NodeID)
		warm(t, r, b.ID, last)
		must.True(t, hasEvent(over(t, r, a.ID), "stopping: preempted"))
	})
	// The agent dies and its task goes on. What it saves itself until the
	// replacement has started is not lost; after that it is told that it has no
	// place any more.
	t.Run("lost", func(t *testing.T) {
		ctx := patient(t)
		a := up(t, r, rig.Job{Name: name(t), Args: []string{"-sync"}})[0]
		last := count(t, r, a.JobID, 0, 3)
		old := started(t, r, a.ID)
		must.NoError(t, r.Lose(ctx, a.NodeID))
		b := replaced(t, r, a)
		warm(t, r, b.ID, last)
		must.False(t, takes(t, old.Addr, last+1)) // superseded
		must.True(t, takes(t, started(t, r, b.ID).Addr, last+1))
		must.NoError(t, r.Find(ctx, a.NodeID))
		told(t, r, a.ID, "rescheduled", false)
	})
}

// What does not touch other jobs.
func TestReason(t *testing.T) {
	r := shared(t)
	t.Run("updated", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{Name: name(t)}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		j.Meta = "2"
		must.NoError(t, r.Register(patient(t), j))
		told(t, r, a.ID, "updated", false)
		warm(t, r, replaced(t, r, a).ID, last)
	})
	t.Run("scaled-down", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{Name: name(t), Count: 2}
		as := up(t, r, j)
		count(t, r, j.Name, 1, 3)
		must.NoError(t, r.Deployed(patient(t), j.Name))
		must.NoError(t, r.Scale(patient(t), j.Name, 1))
		gone := place(as, j.Name+".g[1]")
		told(t, r, gone.ID, "scaled-down", true)
		// The one that stays is not touched, and the place begins cold.
		must.NoError(t, r.Deployed(patient(t), j.Name))
		must.NoError(t, r.Scale(patient(t), j.Name, 2))
		b := replaced(t, r, gone)
		must.Eq(t, 0, started(t, r, b.ID).Value)
		must.SliceEmpty(t, r.Recorder.All(rig.OfAlloc(b.ID), rig.Of(journal.Restored)))
		must.SliceEmpty(t, r.Recorder.All(rig.OfAlloc(place(as, j.Name+".g[0]").ID), rig.Of(journal.Hook)))
		saying(t, r, b.ID, "cold start: no checkpoint")
	})
	t.Run("stopped job", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{Name: name(t)}
		a := up(t, r, j)[0]
		count(t, r, j.Name, 0, 3)
		must.NoError(t, r.StopJob(patient(t), j.Name))
		told(t, r, a.ID, "stopped", true)
		over(t, r, a.ID)
		must.NoError(t, r.Register(patient(t), j))
		b := replaced(t, r, a)
		must.SliceEmpty(t, r.Recorder.All(rig.OfAlloc(b.ID), rig.Of(journal.Restored)))
	})
	t.Run("purged job", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{Name: name(t)}
		a := up(t, r, j)[0]
		_, _, err := r.Nomad().Jobs().Deregister(j.Name, true, nil)
		must.NoError(t, err)
		told(t, r, a.ID, "stopped", true)
	})
	t.Run("stopped allocation", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{Name: name(t), Task: `shutdown_delay = "3s"`}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		begin := time.Now()
		must.NoError(t, r.StopAlloc(patient(t), a.ID))
		// The task hears of it while Nomad still waits.
		soon := heard(t, r, "stopping_soon", rig.OfAlloc(a.ID), rig.Of(journal.Status, "stopping_soon"))
		must.Eq(t, "stopped", soon.Told.Reason)
		must.False(t, soon.Told.Final)
		must.Eq(t, "running", soon.Told.State)
		must.Less(t, 2*time.Second, soon.At.Sub(begin))
		told(t, r, a.ID, "stopped", false)
		pre := heard(t, r, "prestop", rig.OfAlloc(a.ID), rig.Of(journal.Hook, "prestop"))
		must.Greater(t, 2*time.Second, pre.At.Sub(begin))
		warm(t, r, replaced(t, r, a).ID, last)
		var states []string
		for _, e := range r.Recorder.All(rig.OfAlloc(a.ID), rig.Of(journal.Status)) {
			states = append(states, e.Told.State)
		}
		must.SliceContains(t, states, "running") // it can have heard of what comes before as well
		must.SliceContains(t, states, "stopping")
	})
	t.Run("restarted", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{Name: name(t)}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		must.NoError(t, r.Restart(patient(t), a.ID, "app"))
		told(t, r, a.ID, "restarted", false)
		warm(t, r, a.ID, last)
	})
	t.Run("failed by itself", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{Name: name(t), Args: []string{"-exit-after=1s", "-exit-code=3"}}
		begin(t, r, j)
		post := heard(t, r, "poststop", rig.OfJob(j.Name), rig.Of(journal.Hook, "poststop"))
		must.Eq(t, "failed", post.Told.Reason)
		must.Eq(t, "it ended with exit code 3", post.Told.Detail)
		must.SliceEmpty(t, r.Recorder.All(rig.OfAlloc(post.Alloc), rig.Of(journal.Hook, "prestop")))
	})
	t.Run("sibling failed", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{Name: name(t), Group: `
task "other" {
  driver = "raw_exec"
  config {
    command = "/bin/sh"
    args    = ["-c", "sleep 2; exit 5"]
  }
  resources {
    cpu    = 20
    memory = 20
  }
}`}
		begin(t, r, j)
		pre := heard(t, r, "prestop", rig.OfJob(j.Name), rig.Of(journal.Hook, "prestop"))
		told(t, r, pre.Alloc, "failed", false)
	})
	t.Run("completed", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{Name: name(t), Type: "batch", Args: []string{"-exit-after=500ms"}}
		begin(t, r, j)
		post := heard(t, r, "poststop", rig.OfJob(j.Name), rig.Of(journal.Hook, "poststop"))
		must.Eq(t, "completed", post.Told.Reason)
	})
}

// place finds the allocation of a name.
func place(as []*nomadapi.Allocation, name string) *nomadapi.Allocation {
	for _, a := range as {
		if a.Name == name {
			return a
		}
	}
	return nil
}
