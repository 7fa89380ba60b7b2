package lifecycle_test

import (
	"context"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/rig"
)

const crashDriver = "lifecycle-raw_exec"

// crash kills the plugin process and waits for the next one.
func crash(t *testing.T, r *rig.Rig, client int) {
	t.Helper()
	pids, err := r.PluginPIDs(client, crashDriver)
	must.NoError(t, err)
	must.Positive(t, len(pids))
	must.NoError(t, syscall.Kill(pids[0], syscall.SIGKILL))
}

func processes(t *testing.T, alloc string) []rig.Process {
	t.Helper()
	ps, err := rig.Processes(alloc)
	must.NoError(t, err)
	return ps
}

// one checks that a task has exactly one process, beside its executor.
func one(t *testing.T, r *rig.Rig, alloc string) {
	t.Helper()
	n := 0
	for _, p := range processes(t, alloc) {
		if p.Command != "" && p.Command[:min(len(r.App), len(p.Command))] == r.App {
			n++
		}
	}
	must.Eq(t, 1, n, must.Sprintf("%v", processes(t, alloc)))
}

// The plugin process is killed in each state of a task.
func TestCrash_Plugin(t *testing.T) {
	r := shared(t)
	const client = 0
	node := r.Nodes()[client].Name
	starts := func(j string) int { return len(r.Recorder.All(rig.OfJob(j), rig.Of(journal.Started))) }

	t.Run("prestart", func(t *testing.T) {
		j := rig.Job{Name: name(t), Node: node, Restarts: 5, Lifecycle: `prestart {
  http { url = "@URL@/hook/prestart?slow=1s" }
}`}
		begin(t, r, j)
		heard(t, r, "prestart", rig.OfJob(j.Name), rig.Of(journal.Hook, "prestart"))
		crash(t, r, client)
		as, err := r.Running(patient(t), j.Name, 1)
		must.NoError(t, err)
		must.Len(t, 2, r.Recorder.All(rig.OfJob(j.Name), rig.Of(journal.Hook, "prestart")))
		must.Eq(t, 1, starts(j.Name))
		one(t, r, as[0].ID)
	})
	t.Run("prestart command", func(t *testing.T) {
		j := rig.Job{Name: name(t), Node: node, Restarts: 5, Lifecycle: `prestart {
  exec { command = ["/bin/sh", "-c", "@APP@ -journal=@URL@ -note=prestart; sleep 1"] }
}`}
		begin(t, r, j)
		heard(t, r, "prestart", rig.OfJob(j.Name), rig.Of(journal.Hook, "prestart"))
		crash(t, r, client)
		as, err := r.Running(patient(t), j.Name, 1)
		must.NoError(t, err)
		must.Len(t, 2, r.Recorder.All(rig.OfJob(j.Name), rig.Of(journal.Hook, "prestart")))
		must.Len(t, 2, processes(t, as[0].ID), must.Sprint(processes(t, as[0].ID))) // with its executor
	})
	t.Run("restoring", func(t *testing.T) {
		j := rig.Job{Name: name(t), Node: node, Restarts: 5, Args: []string{"-sync"}}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		must.NoError(t, r.PauseConsul(client))
		resumed := false
		defer func() {
			if !resumed {
				must.NoError(t, r.ResumeConsul(client))
			}
		}()
		kill(t, started(t, r, a.ID).PID)
		heard(t, r, "poststop", rig.OfAlloc(a.ID), rig.Of(journal.Hook, "poststop"))
		saying(t, r, a.ID, "Task restarting in")
		// It starts again in a second, and waits for the store. Nothing tells of
		// that: it is no state that lasts.
		time.Sleep(5 * time.Second)
		crash(t, r, client)
		must.NoError(t, r.ResumeConsul(client))
		resumed = true
		warm(t, r, a.ID, last)
		_, err := r.Running(patient(t), j.Name, 1)
		must.NoError(t, err)
		one(t, r, a.ID)
	})
	t.Run("starting", func(t *testing.T) {
		j := rig.Job{Name: name(t), Node: node, Restarts: 5, Lifecycle: `ready { sleep = "2s" }`}
		begin(t, r, j)
		first := heard(t, r, "a start", rig.OfJob(j.Name), rig.Of(journal.Started))
		crash(t, r, client)
		_, err := r.Running(patient(t), j.Name, 1)
		must.NoError(t, err)
		must.Eq(t, 2, starts(j.Name))
		must.ErrorIs(t, syscall.Kill(first.PID, 0), syscall.ESRCH)
		one(t, r, first.Alloc)
	})
	t.Run("running", func(t *testing.T) {
		j := rig.Job{Name: name(t), Node: node, Args: []string{"-sync"}}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		crash(t, r, client)
		begin := time.Now()
		// The stream of events comes back, and so does saving.
		heard(t, r, "events again", rig.OfAlloc(a.ID), rig.Of(journal.Status), rig.After(begin),
			func(e journal.Entry) bool { return e.Told.State == "running" })
		must.Eq(t, last+2, count(t, r, j.Name, 0, 2))
		must.Eq(t, 1, starts(j.Name))
		must.NoError(t, r.StopAlloc(patient(t), a.ID))
		told(t, r, a.ID, "stopped", false)
		warm(t, r, replaced(t, r, a).ID, last+2)
	})
	t.Run("prestop", func(t *testing.T) {
		j := rig.Job{Name: name(t), Node: node, Lifecycle: `prestop {
  http { url = "@URL@/hook/slow?slow=1s" }
}`}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		must.NoError(t, r.StopAlloc(patient(t), a.ID))
		heard(t, r, "the slow hook", rig.OfAlloc(a.ID), rig.Of(journal.Hook, "slow"))
		crash(t, r, client)
		over(t, r, a.ID)
		// The hook that was cut has run again, the one before it has not.
		must.Len(t, 2, r.Recorder.All(rig.OfAlloc(a.ID), rig.Of(journal.Hook, "slow")))
		told(t, r, a.ID, "stopped", false)
		must.Len(t, 1, r.Recorder.All(rig.OfAlloc(a.ID), rig.Of(journal.Hook, "prestop")))
		warm(t, r, replaced(t, r, a).ID, last)
		must.SliceEmpty(t, processes(t, a.ID))
	})
	t.Run("saving", func(t *testing.T) {
		j := rig.Job{Name: name(t), Node: node, Args: []string{"-fault=slow"}}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		must.NoError(t, r.StopAlloc(patient(t), a.ID))
		heard(t, r, "the save", rig.OfAlloc(a.ID), rig.Of(journal.Saving))
		crash(t, r, client)
		over(t, r, a.ID)
		must.Len(t, 2, r.Recorder.All(rig.OfAlloc(a.ID), rig.Of(journal.Saving)))
		warm(t, r, replaced(t, r, a).ID, last)
		must.SliceEmpty(t, processes(t, a.ID))
	})
	t.Run("poststop", func(t *testing.T) {
		j := rig.Job{Name: name(t), Node: node, Lifecycle: `poststop {
  http { url = "@URL@/hook/slow?slow=1s" }
}`}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		must.NoError(t, r.StopAlloc(patient(t), a.ID))
		heard(t, r, "the slow hook", rig.OfAlloc(a.ID), rig.Of(journal.Hook, "slow"))
		crash(t, r, client)
		over(t, r, a.ID)
		warm(t, r, replaced(t, r, a).ID, last)
		must.SliceEmpty(t, processes(t, a.ID))
	})
	// Nothing of all that is in the list of the node.
	tasks, err := r.ManagedTasks(patient(t), client)
	must.NoError(t, err)
	must.SliceEmpty(t, tasks)
}

// The agent is killed, and started again.
func TestCrash_Client(t *testing.T) {
	r := shared(t)
	const client = 1
	node := r.Nodes()[client].Name
	restart := func(t *testing.T) {
		t.Helper()
		must.NoError(t, r.KillClient(client))
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		must.NoError(t, r.StartClient(ctx, client))
	}
	t.Run("running", func(t *testing.T) {
		j := rig.Job{Name: name(t), Node: node, Args: []string{"-sync"}}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		restart(t)
		must.Eq(t, last+2, count(t, r, j.Name, 0, 2))
		code, body := ask(t, r, a, http.MethodGet, "/v1/state")
		must.Eq(t, http.StatusOK, code, must.Sprint(body))
		one(t, r, a.ID)
		must.NoError(t, r.StopAlloc(patient(t), a.ID))
		told(t, r, a.ID, "stopped", false)
		warm(t, r, replaced(t, r, a).ID, last+2)
	})
	t.Run("stopping", func(t *testing.T) {
		j := rig.Job{Name: name(t), Node: node, Lifecycle: `prestop {
  http { url = "@URL@/hook/slow?slow=2s" }
}`}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		must.NoError(t, r.StopAlloc(patient(t), a.ID))
		heard(t, r, "the slow hook", rig.OfAlloc(a.ID), rig.Of(journal.Hook, "slow"))
		restart(t)
		over(t, r, a.ID)
		warm(t, r, replaced(t, r, a).ID, last)
		must.SliceEmpty(t, processes(t, a.ID))
		pre := heard(t, r, "prestop", rig.OfAlloc(a.ID), rig.Of(journal.Hook, "prestop"))
		must.Eq(t, "stopped", pre.Told.Reason)
	})
}
