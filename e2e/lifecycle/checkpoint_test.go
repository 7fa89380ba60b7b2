package lifecycle_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/rig"
)

// The state goes from one allocation to the next in every store and in every way.
func TestCheckpoint(t *testing.T) {
	r := shared(t)
	for name2, j := range map[string]rig.Job{
		"consul over http":   {},
		"directory":          {Store: "shared", Args: []string{"-ballast=200000"}},
		"directory, a large": {Store: "shared", Args: []string{"-ballast=5000000"}, Memory: 100, Checkpoint: `max_size = "8MiB"`},
		"by file": {
			Save:    `exec { command = ["@APP@", "-save-file"] }`,
			Restore: "none", Args: []string{"-restore-file"},
		},
	} {
		t.Run(name2, func(t *testing.T) {
			t.Parallel()
			j.Name = strings.ReplaceAll(name(t), ",", "")
			a := up(t, r, j)[0]
			last := count(t, r, j.Name, 0, 3)
			for range 2 {
				must.NoError(t, r.StopAlloc(patient(t), a.ID))
				b := replaced(t, r, a)
				warm(t, r, b.ID, last)
				a, last = b, count(t, r, j.Name, 0, 2)
			}
		})
	}
	t.Run("interval", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{Name: name(t), Checkpoint: `interval = "1s"`, Restarts: 3}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		same := func(e journal.Entry) bool { return e.Value == last }
		first := heard(t, r, "a regular save", rig.OfAlloc(a.ID), rig.Of(journal.Saving), same)
		// The one after begins when that one is stored.
		heard(t, r, "another one", rig.OfAlloc(a.ID), rig.Of(journal.Saving), same, rig.After(first.At))
		kill(t, started(t, r, a.ID).PID)
		warm(t, r, a.ID, last)
	})
	// A task that ends by itself is not asked; what it has saved before counts.
	t.Run("process killed", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{Name: name(t), Args: []string{"-sync"}, Restarts: 3}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		kill(t, started(t, r, a.ID).PID)
		warm(t, r, a.ID, last)
		must.SliceEmpty(t, r.Recorder.All(rig.OfAlloc(a.ID), rig.Of(journal.Saving), atStop))
	})
	t.Run("two stops at once", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{Name: name(t), Lifecycle: `prestop { sleep = "1s" }`}
		a := up(t, r, j)[0]
		must.NoError(t, r.Restart(patient(t), a.ID, "app"))
		heard(t, r, "prestop", rig.OfAlloc(a.ID), rig.Of(journal.Hook, "prestop"))
		must.NoError(t, r.StopAlloc(patient(t), a.ID))
		over(t, r, a.ID)
		must.Len(t, len(r.Recorder.All(rig.OfAlloc(a.ID), rig.Of(journal.Started))), r.Recorder.All(rig.OfAlloc(a.ID), rig.Of(journal.Hook, "prestop")))
		must.Len(t, len(r.Recorder.All(rig.OfAlloc(a.ID), rig.Of(journal.Started))), r.Recorder.All(rig.OfAlloc(a.ID), rig.Of(journal.Hook, "poststop")))
	})
}

func kill(t *testing.T, pid int) {
	t.Helper()
	must.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
}

// What an application does wrong does not hold up its stop, and is told.
func TestCheckpoint_BadApplication(t *testing.T) {
	r := shared(t)
	for fault, want := range map[string]string{
		"fail":  "status 500: I do not feel like it",
		"cut":   "unexpected EOF",
		"never": "cut at its timeout of 2s",
		"large": "the answer is too large",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			j := rig.Job{Name: name(t), Args: []string{"-fault=" + fault}, Save: rig.HTTPSave + "\ntimeout = \"2s\""}
			if fault == "large" {
				j.Checkpoint, j.Args = `max_size = "4KiB"`, []string{"-ballast=8192"}
			}
			a := up(t, r, j)[0]
			count(t, r, j.Name, 0, 1)
			code, body := ask(t, r, a, http.MethodPost, "/v1/save")
			switch fault {
			case "large":
				must.Eq(t, http.StatusRequestEntityTooLarge, code, must.Sprint(body))
			default:
				must.Eq(t, http.StatusBadGateway, code, must.Sprint(body))
			}
			must.StrContains(t, body, want)
			begin := time.Now()
			must.NoError(t, r.StopAlloc(patient(t), a.ID))
			b := over(t, r, a.ID)
			must.Less(t, killTimeout, time.Since(begin))
			must.True(t, hasEvent(b, "checkpoint NOT saved"), must.Sprint(events(b, "app")))
			must.True(t, hasEvent(b, want), must.Sprint(events(b, "app")))
			must.Eq(t, 0, started(t, r, replaced(t, r, a).ID).Value)
		})
	}
}

// ask makes a request at the task's management socket.
func ask(t *testing.T, r *rig.Rig, a *nomadapi.Allocation, method, path string, body ...string) (int, string) {
	t.Helper()
	socket := filepath.Join(allocDir(t, r, a.ID), "app", "secrets", "lifecycle.sock")
	code, answer, err := rig.Ask(patient(t), socket, method, path, []byte(strings.Join(body, "")))
	must.NoError(t, err)
	return code, string(answer)
}

// What is in the directory store of a job, oldest first.
func stored(t *testing.T, r *rig.Rig, job, suffix string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(r.CheckpointDir(), "lifecycle/checkpoints/default", job, "g/0/app/*/*"+suffix))
	must.NoError(t, err)
	slices.Sort(list)
	return list
}

func TestCheckpoint_Damaged(t *testing.T) {
	r := shared(t)
	damage := func(t *testing.T, job string) (newest string) {
		t.Helper()
		data := stored(t, r, job, ".data")
		newest = data[len(data)-1]
		text, err := os.ReadFile(newest)
		must.NoError(t, err)
		text[len(text)/2] ^= 0xff
		must.NoError(t, os.Remove(newest))
		must.NoError(t, os.WriteFile(newest, text, 0o600))
		return newest
	}
	t.Run("fail", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{Name: name(t), Args: []string{"-sync", "-ballast=1000"}, Store: "shared", Restarts: 10}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		newest := damage(t, j.Name)
		kill(t, started(t, r, a.ID).PID)
		saying(t, r, a.ID, "is damaged")
		saying(t, r, a.ID, "on_restore_failure") // it says what can be done
		must.NoError(t, os.Remove(strings.TrimSuffix(newest, ".data")+".json"))
		warm(t, r, a.ID, last-1)
	})
	t.Run("cold", func(t *testing.T) {
		t.Parallel()
		j := rig.Job{
			Name: name(t), Args: []string{"-sync", "-ballast=1000"}, Store: "shared", Restarts: 10,
			Checkpoint: `on_restore_failure = "cold"`,
		}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 3)
		damage(t, j.Name)
		kill(t, started(t, r, a.ID).PID)
		warm(t, r, a.ID, last-1)
		saying(t, r, a.ID, "damaged, and passed over")
	})
}

// The store does not take anything. A stop goes on in time and says so; a start
// waits for the store, or begins cold if the job wants that.
func TestCheckpoint_StoreFails(t *testing.T) {
	r := shared(t)
	dir := r.CheckpointDir()
	mount := func(t *testing.T, options string) {
		t.Helper()
		must.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, options))
		t.Cleanup(func() { must.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	}
	t.Run("disk full", func(t *testing.T) {
		mount(t, "size=64k")
		j := rig.Job{Name: name(t), Args: []string{"-ballast=100000"}, Store: "shared"}
		a := up(t, r, j)[0]
		count(t, r, j.Name, 0, 1)
		begin := time.Now()
		must.NoError(t, r.StopAlloc(patient(t), a.ID))
		b := over(t, r, a.ID)
		must.Less(t, killTimeout+2*time.Second, time.Since(begin))
		must.True(t, hasEvent(b, "checkpoint NOT saved"), must.Sprint(events(b, "app")))
		must.True(t, hasEvent(b, "no space left on device"), must.Sprint(events(b, "app")))
		must.Eq(t, 0, started(t, r, replaced(t, r, a).ID).Value)
		must.SliceEmpty(t, stored(t, r, j.Name, ".json"))
	})
	t.Run("read-only", func(t *testing.T) {
		mount(t, "size=1m")
		j := rig.Job{Name: name(t), Args: []string{"-sync"}, Store: "shared", KillTimeout: "5s", Checkpoint: `on_restore_failure = "cold"`}
		a := up(t, r, j)[0]
		count(t, r, j.Name, 0, 1)
		must.NoError(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		must.NoError(t, r.StopAlloc(patient(t), a.ID))
		b := over(t, r, a.ID)
		must.True(t, hasEvent(b, "read-only file system"), must.Sprint(events(b, "app")))
		// It cannot take its place in the store, and the job wants it to start all
		// the same.
		c := replaced(t, r, a)
		saying(t, r, c.ID, "cold start, because no checkpoint could be fetched")
		must.NoError(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT, ""))
		must.True(t, takes(t, started(t, r, c.ID).Addr, 1)) // it has taken its place now
	})
	t.Run("not mounted", func(t *testing.T) {
		j := rig.Job{Name: name(t), Args: []string{"-sync"}, Store: "shared", KillTimeout: "5s", Restarts: 10}
		a := up(t, r, j)[0]
		last := count(t, r, j.Name, 0, 2)
		must.NoError(t, os.Rename(dir, dir+".away"))
		back := func() { must.NoError(t, os.Rename(dir+".away", dir)) }
		begin := time.Now()
		must.NoError(t, r.StopAlloc(patient(t), a.ID))
		b := over(t, r, a.ID)
		must.Less(t, 10*time.Second, time.Since(begin))
		must.True(t, hasEvent(b, "checkpoint NOT saved"), must.Sprint(events(b, "app")))
		_, err := os.Stat(dir)
		must.ErrorIs(t, err, os.ErrNotExist) // nobody has made another one
		back()
		warm(t, r, replaced(t, r, a).ID, last)
	})
}

// The Consul agent of the node does not answer.
func TestCheckpoint_ConsulSilent(t *testing.T) {
	r := shared(t)
	node := 0
	j := rig.Job{Name: name(t), Node: r.Nodes()[node].Name, KillTimeout: "6s", Args: []string{"-sync"}}
	a := up(t, r, j)[0]
	last := count(t, r, j.Name, 0, 3)
	must.NoError(t, r.PauseConsul(node))
	resumed := false
	resume := func() {
		if !resumed {
			resumed = true
			must.NoError(t, r.ResumeConsul(node))
		}
	}
	t.Cleanup(resume)
	begin := time.Now()
	must.NoError(t, r.StopAlloc(patient(t), a.ID))
	b := over(t, r, a.ID)
	must.Less(t, 12*time.Second, time.Since(begin))
	must.True(t, hasEvent(b, "checkpoint NOT saved"), must.Sprint(events(b, "app")))
	// Its replacement begins, and goes on when Consul answers.
	_, err := r.Until(patient(t), j.Name, "replaced", func(as []*nomadapi.Allocation) bool { return len(as) == 2 })
	must.NoError(t, err)
	resume()
	warm(t, r, replaced(t, r, a).ID, last)
}
