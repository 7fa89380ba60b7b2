package lifecycle_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/rig"
)

// swapped is a cluster that began with Nomad's own drivers, under which a task of
// each runs. Then the plugin was put in their place, and Nomad's docker driver as a
// plugin of its own below lifecycle-docker.
type swapped struct {
	*rig.Rig
	before map[string]*nomadapi.Allocation // by driver
}

// stock is a job without a lifecycle block.
func stock(r *rig.Rig, name, driver, block string) string {
	command := fmt.Sprintf("command = %q", r.App)
	if strings.HasSuffix(driver, "docker") {
		command = fmt.Sprintf("image = %q\nentrypoint = [\"/bin/app\"]\nnetwork_mode = \"host\"", rig.AppImage)
	}
	return fmt.Sprintf(`
job %q {
  group "g" {
    task "app" {
      driver       = %q
      kill_timeout = "10s"
      config {
        %s
        args = ["-journal=@URL@"]
        %s
      }
      resources {
        cpu    = 20
        memory = 40
      }
    }
  }
}`, name, driver, command, block)
}

func swap(t *testing.T) *swapped {
	t.Helper()
	ctx := context.Background()
	r, err := rig.Start(ctx, rig.Config{Clients: 1, Docker: cluster.DockerAuto, Progress: os.Stderr, Start: func(ctx context.Context, cfg cluster.Config) (*cluster.Cluster, error) {
		cfg.PluginBinary = ""
		return cluster.Start(ctx, cfg)
	}})
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, finish(r, t.Failed())) })
	s := &swapped{Rig: r, before: map[string]*nomadapi.Allocation{}}
	for _, driver := range []string{"raw_exec", "docker"} {
		if r.HasDriver(driver) {
			job := "stock-" + strings.ReplaceAll(driver, "_", "-")
			must.NoError(t, r.RegisterHCL(ctx, stock(r, job, driver, "")))
			as, err := r.Running(patient(t), job, 1)
			must.NoError(t, err)
			s.before[driver] = as[0]
			started(t, r, as[0].ID)
		}
	}
	must.NoError(t, r.StopClient(0))
	plugin, err := cluster.BuildPlugin(ctx, os.Stderr)
	must.NoError(t, err)
	plugins := filepath.Join(r.Dir(), "plugins")
	lifecycle := fmt.Sprintf(`lifecycle {
      nomad { address = %q }
      consul { address = %q }
      endpoint { dir = %q }
    }`, r.NomadAddr(), r.ConsulAddr(), filepath.Join(r.Dir(), "e"))
	const docker = `infra_image = "nomad-patterns/pause:1"
    volumes { enabled = false }
    gc {
      image = false
      dangling_containers { enabled = false }
    }`
	text := ""
	install := func(label, args, config string) {
		must.NoError(t, os.Symlink(plugin, filepath.Join(plugins, label)))
		text += fmt.Sprintf("plugin %q {\n  args = [%s]\n  config {\n    %s\n    %s\n  }\n}\n", label, args, config, lifecycle)
	}
	install("our-raw_exec", `"-inner=raw_exec", "-as=raw_exec"`, "enabled = true")
	if r.HasDriver("docker") {
		install("our-docker", `"-inner=docker", "-as=docker"`, docker)
		binary := filepath.Join(t.TempDir(), "docker")
		out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/hashicorp/nomad/drivers/docker/cmd").CombinedOutput()
		must.NoError(t, err, must.Sprint(string(out)))
		install("below", fmt.Sprintf(`"-inner-plugin=%s"`, binary), docker)
	}
	extra := filepath.Join(r.Dir(), "extra.hcl")
	old, err := os.ReadFile(extra)
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(extra, append(old, text...), 0o600))
	must.NoError(t, r.StartClient(ctx, 0))
	return s
}

// The plugin takes the place of a driver while its tasks run.
func TestSwap(t *testing.T) {
	s := swap(t)
	for driver, a := range s.before {
		t.Run("adopted "+driver, func(t *testing.T) {
			pid := started(t, s.Rig, a.ID).PID
			// It is the same process still, and the plugin serves it.
			must.Len(t, 1, s.Recorder.All(rig.OfAlloc(a.ID), rig.Of(journal.Started)))
			if driver == "raw_exec" {
				must.NoError(t, syscall.Kill(pid, 0))
			}
			out, err := s.CLI(patient(t), "alloc", "exec", "-i=false", "-t=false", a.ID, "/bin/busybox", "echo", "still here")
			must.NoError(t, err)
			must.StrContains(t, out, "still here")
			ended, err := s.Ended(patient(t), a.JobID)
			must.NoError(t, err)
			must.Eq(t, nomadapi.AllocClientStatusComplete, ended[0].ClientStatus, must.Sprint(rig.Describe(ended[0])))
			must.Len(t, 1, s.Recorder.All(rig.OfAlloc(a.ID), rig.Of(journal.Signal)))
			left, err := s.Left(patient(t), ended)
			must.NoError(t, err)
			must.SliceEmpty(t, left)
		})
		t.Run("new "+driver, func(t *testing.T) { s.hooked(t, driver) })
	}
	if !s.HasDriver("docker") {
		return
	}
	t.Run("below", s.below)
	t.Run("guard", s.guard)
}

const swapHooks = `lifecycle {
      ready {
        http {
          socket = "app.sock"
          path   = "/ready"
        }
        interval = "50ms"
      }
      prestop {
        http {
          socket = "app.sock"
          path   = "/hook/prestop"
        }
      }
      poststop {
        http { url = "@URL@/hook/poststop" }
      }
      checkpoint {
        save {
          http {
            socket = "app.sock"
            path   = "/state"
          }
        }
        restore {
          http {
            socket = "app.sock"
            path   = "/state"
          }
          retries  = 50
          interval = "20ms"
        }
      }
    }`

// hooked runs a task with a lifecycle block under a driver, replaces it and stops
// it.
func (s *swapped) hooked(t *testing.T, driver string) *nomadapi.Allocation {
	t.Helper()
	job := strings.NewReplacer("/", "-", "_", "-").Replace(strings.ToLower(t.Name()))
	must.NoError(t, s.RegisterHCL(patient(t), stock(s.Rig, job, driver, swapHooks)))
	endWith(t, s.Rig, job)
	as, err := s.Running(patient(t), job, 1)
	must.NoError(t, err)
	last := count(t, s.Rig, job, 0, 3)
	must.NoError(t, s.StopAlloc(patient(t), as[0].ID))
	told(t, s.Rig, as[0].ID, "stopped", false)
	b := replaced(t, s.Rig, as[0])
	warm(t, s.Rig, b.ID, last)
	return b
}

// below runs tasks under a driver in a process of its own, which is killed.
func (s *swapped) below(t *testing.T) {
	a := s.hooked(t, "lifecycle-docker")
	last := count(t, s.Rig, a.JobID, 0, 3)
	pids, err := children(s.Dir())
	must.NoError(t, err)
	must.Len(t, 1, pids)
	must.NoError(t, syscall.Kill(pids[0], syscall.SIGKILL))
	// The task goes on, and its stop is the usual one.
	must.NoError(t, s.StopAlloc(patient(t), a.ID))
	told(t, s.Rig, a.ID, "stopped", false)
	b := replaced(t, s.Rig, a)
	warm(t, s.Rig, b.ID, last)
	must.Len(t, 1, s.Recorder.All(rig.OfAlloc(a.ID), rig.Of(journal.Started)))
}

// children are the processes of the inner docker driver of a cluster.
func children(dir string) ([]int, error) {
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, exe := range exes {
		path, err := os.Readlink(exe)
		if err != nil || filepath.Base(path) != "docker" || !strings.Contains(path, "TestSwap") {
			continue // it has ended, or is another one
		}
		cmd, err := os.ReadFile(filepath.Join(filepath.Dir(exe), "cmdline"))
		if err != nil || strings.Count(strings.TrimRight(string(cmd), "\x00"), "\x00") > 0 {
			continue // a helper that it has started
		}
		var pid int
		if _, err := fmt.Sscanf(exe, "/proc/%d/exe", &pid); err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// guard tries what the docker driver would let a task do to its node.
func (s *swapped) guard(t *testing.T) {
	const shell = `job %q {
  group "g" {
    restart {
      attempts = 2
      delay    = "1s"
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task "app" {
      driver = "docker"
      %s
      config {
        image      = %q
        entrypoint = ["/bin/busybox", "sh", "-c"]
        args       = [%q]
        %s
      }
      resources {
        cpu    = 20
        memory = 40
      }
    }
  }
}`
	for name2, c := range map[string]struct {
		task, script, config string
		want                 []string
		starts               bool
	}{
		"host namespace": {
			script: "/bin/busybox readlink /proc/self/ns/pid", config: `pid_mode = "host"`,
			want: []string{`pid_mode: "host" is not allowed`, "allow_host_namespaces"},
		},
		"symlink by the task": {
			script: "/bin/busybox rm -rf /local/out; /bin/busybox ln -s /etc /local/out; exit 1",
			config: `volumes = ["local/out:/out"]`, starts: true,
			want: []string{`volumes[0]: "local/out"`, "leads out"},
		},
		"own directory": {
			script: "/bin/busybox rm -rf /all/app/local; /bin/busybox ln -s /etc /all/app/local; exit 1",
			config: `volumes = ["..:/all"]`, starts: true,
			want: []string{"leads out"},
		},
		"legitimate": {
			task: "template {\n destination = \"local/site/x\"\n data = \"x\"\n}", script: "/bin/busybox cat /site/x; /bin/busybox sleep 600",
			config: `volumes = ["local/site:/site", "../alloc/data:/data"]
        network_mode = "host"`,
		},
	} {
		t.Run(name2, func(t *testing.T) {
			job := strings.ReplaceAll("guard-"+name2, " ", "-")
			must.NoError(t, s.RegisterHCL(patient(t), fmt.Sprintf(shell, job, c.task, rig.AppImage, c.script, c.config)))
			endWith(t, s.Rig, job)
			if c.want == nil {
				_, err := s.Running(patient(t), job, 1)
				must.NoError(t, err)
				return
			}
			as, err := s.Until(patient(t), job, "failed", func(as []*nomadapi.Allocation) bool {
				return len(as) > 0 && as[0].ClientStatus == nomadapi.AllocClientStatusFailed
			})
			must.NoError(t, err)
			for _, want := range c.want {
				must.True(t, hasEvent(as[0], want), must.Sprint(rig.Describe(as[0])))
			}
			restarts := uint64(0)
			if c.starts {
				restarts = 1
			}
			must.Eq(t, restarts, as[0].TaskStates["app"].Restarts) // the refusal is not tried again
		})
	}
}
