package lifecycle_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/rig"
)

// extra is one more task of a group, which tells the journal of its start and its
// hooks.
func extra(r *rig.Rig, name, driver, block, more string) string {
	app := r.App
	if driver != "lifecycle-raw_exec" {
		app = "/bin/app"
	}
	return fmt.Sprintf(`
task %q {
  driver       = %q
  kill_timeout = "15s"
  %s
  config {
    command = %q
    args    = ["-journal=@URL@"]
    lifecycle {
      prestop {
        http { url = "@URL@/hook/prestop" }
      }
      poststop {
        http { url = "@URL@/hook/poststop?slow=200ms" }
      }
      %s
    }
  }
  logs {
    max_files     = 1
    max_file_size = 1
  }
  resources {
    cpu    = 20
    memory = 40
  }
}`, name, driver, more, app, block)
}

const groupHooks = `
group {
  created {
    http { url = "@URL@/hook/created?slow=300ms" }
  }
  running {
    http { url = "@URL@/hook/running" }
  }
  stopping {
    http { url = "@URL@/hook/stopping?slow=300ms" }
  }
  stopped {
    http { url = "@URL@/hook/stopped" }
  }
}`

// order returns what has happened to the allocation, task by task.
func order(r *rig.Rig, alloc string) []string {
	var list []string
	for _, e := range r.Recorder.All(rig.OfAlloc(alloc), rig.Of(journal.Started)) {
		list = append(list, e.Task+" started")
	}
	for _, e := range r.Recorder.All(rig.OfAlloc(alloc), rig.Of(journal.Hook)) {
		list = append(list, e.Task+" "+e.Name)
	}
	return list
}

// The hooks of a group run once in the life of its allocation, whatever drivers its
// tasks have and however often they are restarted.
func TestGroup_Hooks(t *testing.T) {
	r := shared(t)
	t.Parallel()
	other := "lifecycle-raw_exec"
	if r.HasDriver("lifecycle-exec") {
		other = "lifecycle-exec"
	}
	j := rig.Job{Name: name(t), Store: "none", Lifecycle: groupHooks, Group: extra(r, "second", other, "", "")}
	a := up(t, r, j)[0]
	heard(t, r, "running", rig.OfAlloc(a.ID), rig.Of(journal.Hook, "running"))
	must.NoError(t, r.Restart(patient(t), a.ID, ""))
	for _, task := range []string{"app", "second"} {
		must.NoError(t, r.Restarted(patient(t), a.ID, task, 0))
	}
	must.NoError(t, r.StopJob(patient(t), j.Name))
	over(t, r, a.ID)
	heard(t, r, "stopped", rig.OfAlloc(a.ID), rig.Of(journal.Hook, "stopped"))
	for _, hook := range []string{"created", "running", "stopping", "stopped"} {
		must.Len(t, 1, r.Recorder.All(rig.OfAlloc(a.ID), rig.Of(journal.Hook, hook)), must.Sprint(order(r, a.ID)))
	}
	at := func(what string, name ...string) []time.Time {
		var list []time.Time
		for _, e := range r.Recorder.All(rig.OfAlloc(a.ID), rig.Of(what, name...)) {
			list = append(list, e.At)
		}
		slices.SortFunc(list, time.Time.Compare)
		return list
	}
	must.True(t, at(journal.Hook, "created")[0].Add(300*time.Millisecond).Before(at(journal.Started)[0]))
	pre, post := at(journal.Hook, "prestop"), at(journal.Hook, "poststop")
	must.Len(t, 4, pre) // two tasks, restarted once and stopped once
	must.Len(t, 4, post)
	must.True(t, at(journal.Hook, "stopping")[0].After(post[1])) // not at the restart
	must.True(t, at(journal.Hook, "stopping")[0].Add(300*time.Millisecond).Before(pre[2]))
	must.True(t, at(journal.Hook, "stopped")[0].After(post[3]))
}

// ends are the tasks in the order in which their processes have ended.
func ends(r *rig.Rig, alloc string, after time.Time) []string {
	var list []string
	for _, e := range r.Recorder.All(rig.OfAlloc(alloc), rig.Of(journal.Signal), rig.After(after)) {
		list = append(list, e.Task)
	}
	return list
}

// What a task names in stop_after stops before it, also on a restart of the
// allocation, where Nomad stops all at once.
func TestGroup_StopAfter(t *testing.T) {
	r := shared(t)
	t.Parallel()
	j := rig.Job{Name: name(t), Store: "none", Lifecycle: `prestop { sleep = "500ms" }`,
		Group: extra(r, "db", "lifecycle-raw_exec", `stop_after = ["cache", "app"]`, "") +
			extra(r, "cache", "lifecycle-raw_exec", `stop_after = ["app"]`, "")}
	a := up(t, r, j)[0]
	begin := time.Now()
	must.NoError(t, r.Restart(patient(t), a.ID, ""))
	for _, task := range []string{"app", "cache", "db"} {
		must.NoError(t, r.Restarted(patient(t), a.ID, task, 0))
	}
	must.Eq(t, []string{"app", "cache", "db"}, ends(r, a.ID, begin))
	begin = time.Now()
	must.NoError(t, r.StopAlloc(patient(t), a.ID))
	over(t, r, a.ID)
	must.Eq(t, []string{"app", "cache", "db"}, ends(r, a.ID, begin))
}

// Sidecars stop in the reverse order of their start, and a ready hook of one holds
// the main task back.
func TestGroup_Sidecars(t *testing.T) {
	r := shared(t)
	t.Parallel()
	const sidecar = `lifecycle {
    hook    = "prestart"
    sidecar = true
  }`
	j := rig.Job{Name: name(t), Store: "none",
		Group: extra(r, "one", "lifecycle-raw_exec", "", sidecar) + extra(r, "two", "lifecycle-raw_exec", `ready { sleep = "2s" }`, sidecar)}
	a := up(t, r, j)[0]
	started := map[string]time.Time{}
	for _, task := range []string{"app", "one", "two"} {
		started[task] = heard(t, r, "start of "+task, rig.OfAlloc(a.ID), rig.OfTask(task), rig.Of(journal.Started)).At
	}
	must.Greater(t, 1900*time.Millisecond, started["app"].Sub(started["two"]))
	// Both start at once. What counts is when the plugin has begun with them.
	begun := func(task string) time.Time {
		data, err := os.ReadFile(filepath.Join(allocDir(t, r, a.ID), ".lifecycle", "group", task+".json"))
		must.NoError(t, err)
		var member struct{ Started time.Time }
		must.NoError(t, json.Unmarshal(data, &member))
		return member.Started
	}
	want := []string{"app", "two", "one"}
	if begun("two").Before(begun("one")) {
		want = []string{"app", "one", "two"}
	}
	begin := time.Now()
	must.NoError(t, r.StopAlloc(patient(t), a.ID))
	over(t, r, a.ID)
	must.Eq(t, want, ends(r, a.ID, begin), must.Sprint(strings.Join(order(r, a.ID), ", ")))
}
