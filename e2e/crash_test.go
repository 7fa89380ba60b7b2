package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
)

// What happens when the plugin process or the Nomad client is killed. Every
// case has a cluster of its own client, because a kill hits all its tasks.
func TestCrash(t *testing.T) {
	c := start(t, 1)
	for _, inner := range inners(c) {
		t.Run(inner, func(t *testing.T) {
			for name, crash := range map[string]func(){
				"plugin killed": func() { killPlugin(t, c, inner) },
				"client killed": func() { must.NoError(t, c.KillClient(0)) },
				// It ends its plugins as it goes, but not the executors.
				"client stopped": func() { must.NoError(t, c.StopClient(0)) },
				"client and plugin killed": func() {
					pids := pluginPIDs(t, c, inner)
					must.NoError(t, c.KillClient(0))
					for _, pid := range pids {
						must.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
					}
				},
			} {
				t.Run(name+" while the task runs", func(t *testing.T) {
					s := survivor(strings.ReplaceAll(name, " ", "-")+"-"+inner, inner)
					run(t, c, s)
					a := running(t, c, s.Job)
					crash()
					must.Eq(t, 1, processes(t, a.ID))
					if c.ClientPID(0) == 0 {
						must.NoError(t, c.StartClient(t.Context(), 0))
					}
					usable(t, c, a)
					survived(t, c, s)
				})
			}
			t.Run("plugin killed while a start hook runs", func(t *testing.T) {
				s := spec{
					Job: "start-" + inner, Driver: "lifecycle-" + inner, Network: portNetwork,
					Args: []string{"-listen=:${NOMAD_PORT_http}", "-ready-after=3s"},
					Lifecycle: `ready {
  http {
    port = "http"
    path = "/ready"
  }
  interval = "100ms"
  timeout  = "50s"
}`,
				}
				run(t, c, s)
				// Started by the inner driver, and Nomad does not know it yet.
				await(t, "the start in the plugin's journal", func() bool {
					allocs, _, err := c.Nomad().Jobs().Allocations(s.Job, true, nil)
					must.NoError(t, err)
					if len(allocs) == 0 {
						return false
					}
					files, err := filepath.Glob(filepath.Join(c.Dir(), "*", "a", allocs[0].ID, ".lifecycle", "app.json"))
					must.NoError(t, err)
					if len(files) != 1 {
						return false
					}
					text, err := os.ReadFile(files[0])
					return err == nil && bytes.Contains(text, []byte(`"inner"`)) && processes(t, allocs[0].ID) == 1
				})
				killPlugin(t, c, inner)
				a := running(t, c, s.Job)
				// Started twice, and the first one is gone.
				must.Eq(t, 2, strings.Count(strings.Join(journal(t, c, a), "\n"), "started"), must.Sprint(events(a)))
				must.Eq(t, 1, processes(t, a.ID))
				a = stop(t, c, s.Job)
				must.Eq(t, 0, processes(t, a.ID))
			})
			t.Run("plugin killed while a prestop hook runs", func(t *testing.T) {
				r := record(t)
				s := spec{
					Job: "stop-" + inner, Driver: "lifecycle-" + inner,
					Lifecycle: `
prestop {
  http { url = "` + r.addr + `/first" }
}
prestop {
  sleep = "3s"
}
prestop {
  http { url = "` + r.addr + `/last" }
}`,
				}
				run(t, c, s)
				running(t, c, s.Job)
				_, _, err := c.Nomad().Jobs().Deregister(s.Job, false, nil)
				must.NoError(t, err)
				await(t, "the first prestop hook", func() bool { return len(r.list()) == 1 })
				killPlugin(t, c, inner)
				a := ended(t, c, s.Job)
				must.Eq(t, []string{"POST /first", "POST /last"}, r.list(), must.Sprint(events(a)))
				must.Eq(t, 0, processes(t, a.ID))
			})
		})
	}
}

// survivor is a task that tells whether its prestop hook ran.
func survivor(job, inner string) spec {
	return spec{
		Job: job, Driver: "lifecycle-" + inner,
		Lifecycle: `prestop {
  exec { command = ["@APP@", "-note=leaving"] }
}`,
	}
}

// usable waits until the plugin answers for the task again.
func usable(t *testing.T, c *cluster.Cluster, a *nomadapi.Allocation) {
	t.Helper()
	await(t, "exec after the crash", func() bool {
		out, err := cli(t, c, "alloc", "exec", "-i=false", "-t=false", a.ID, "/bin/busybox", "echo", "still here")
		return err == nil && strings.Contains(out, "still here")
	})
}

// survived stops the job: the process from before the crash must still have
// been there, and the hooks must still be known.
func survived(t *testing.T, c *cluster.Cluster, s spec) {
	t.Helper()
	a := stop(t, c, s.Job)
	must.Eq(t, []string{"started", "leaving prestop", "signal SIGTERM"}, journal(t, c, a), must.Sprint(events(a)))
	must.Eq(t, 0, processes(t, a.ID))
}

func pluginPIDs(t *testing.T, c *cluster.Cluster, inner string) []int {
	t.Helper()
	pids, err := c.PluginPIDs(0, inner)
	must.NoError(t, err)
	must.Positive(t, len(pids))
	return pids
}

func killPlugin(t *testing.T, c *cluster.Cluster, inner string) {
	t.Helper()
	must.NoError(t, syscall.Kill(pluginPIDs(t, c, inner)[0], syscall.SIGKILL))
}
