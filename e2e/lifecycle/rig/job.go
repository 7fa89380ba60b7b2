package rig

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"text/template"

	nomadapi "github.com/hashicorp/nomad/api"
)

// Job is a service of one task that runs the application.
type Job struct {
	Name     string
	Driver   string // default lifecycle-raw_exec
	Count    int    // default 1
	Priority int    // default 50
	Type     string // default "service"
	Args     []string
	// Store of the checkpoints, "none" for no checkpoint. Default "consul".
	Store string
	// Checkpoint is more in the checkpoint block.
	Checkpoint string
	// Save and Restore replace the blocks of the same name; "none" leaves it out.
	Save, Restore string
	// Lifecycle is more in the lifecycle block.
	Lifecycle string
	// NoHooks leaves out the hooks that tell the journal.
	NoHooks bool
	// Group and Task are more in the group and in the task.
	Group, Task string
	// Constraint is a node's name.
	Node string
	// Meta changes with every version that is to replace the one before.
	Meta        string
	KillTimeout string // default "10s"
	Memory      int    // MiB; default 20
	Restarts    int    // attempts; default 0
}

var jobTemplate = template.Must(template.New("job").Funcs(template.FuncMap{"q": func(s string) string { return fmt.Sprintf("%q", s) }}).Parse(`
job {{ q .Name }} {
  type     = {{ q .Type }}
  priority = {{ .Priority }}
  {{ if .Node }}constraint {
    attribute = "${node.unique.name}"
    value     = {{ q .Node }}
  }{{ end }}
  group "g" {
    {{ if ne .Type "system" }}count = {{ .Count }}{{ end }}
    restart {
      attempts = {{ .Restarts }}
      interval = "10m"
      delay    = "1s"
      mode     = "fail"
    }
    {{ if eq .Type "service" }}reschedule {
      delay          = "5s"
      delay_function = "constant"
      unlimited      = true
    }
    update {
      max_parallel      = {{ .Count }}
      min_healthy_time  = "0s"
      healthy_deadline  = "50s"
      progress_deadline = "55s"
      health_check      = "task_states"
    }
    migrate {
      max_parallel     = {{ .Count }}
      min_healthy_time = "0s"
      healthy_deadline = "50s"
      health_check     = "task_states"
    }{{ end }}
    {{ .Group }}
    task "app" {
      driver       = {{ q .Driver }}
      kill_timeout = {{ q .KillTimeout }}
      meta {
        version = {{ q .Meta }}
      }
      {{ .Task }}
      config {
        {{ if .Image }}image        = {{ q .Image }}
        entrypoint   = ["/bin/app"]
        network_mode = "host"{{ else }}command = {{ q .App }}{{ end }}
        args    = ["-journal={{ .URL }}", {{ range .Args }}{{ q . }}, {{ end }}]
        lifecycle {
          {{ if not .NoHooks }}prestop {
            http {
              socket = "app.sock"
              path   = "/hook/prestop"
            }
          }
          poststop {
            http { url = "{{ .URL }}/hook/poststop" }
          }{{ end }}
          {{ if ne .Store "none" }}checkpoint {
            store = {{ q .Store }}
            {{ if ne .Save "none" }}save {
              {{ .Save }}
            }{{ end }}
            {{ if ne .Restore "none" }}restore {
              {{ .Restore }}
            }{{ end }}
            {{ .Checkpoint }}
          }{{ end }}
          {{ .Lifecycle }}
        }
      }
      resources {
        cpu    = 20
        memory = {{ .Memory }}
      }
      logs {
        max_files     = 1
        max_file_size = 1
      }
    }
    ephemeral_disk {
      size = 300
    }
  }
}
`))

// The usual ways to move the state.
const (
	HTTPSave = `http {
                socket = "app.sock"
                path   = "/state"
              }`
	// A process that has just been started does not listen yet.
	HTTPRestore = HTTPSave + `
              retries  = 50
              interval = "20ms"`
)

// AppImage holds the application as /bin/app, and busybox.
const AppImage = "nomad-patterns/lifecycle-app:1"

// HCL renders the job.
func (r *Rig) HCL(j Job) (string, error) {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&j.Driver, "lifecycle-raw_exec")
	def(&j.Type, "service")
	def(&j.Store, "consul")
	def(&j.Save, HTTPSave)
	def(&j.Restore, HTTPRestore)
	def(&j.KillTimeout, "10s")
	j.Count, j.Priority, j.Memory = orElse(j.Count, 1), orElse(j.Priority, 50), orElse(j.Memory, 20)
	var b bytes.Buffer
	app, image := r.App, ""
	if strings.HasSuffix(j.Driver, "docker") {
		image = AppImage
	}
	if !strings.HasSuffix(j.Driver, "raw_exec") {
		app = "/bin/app"
	}
	err := jobTemplate.Execute(&b, struct {
		Job
		App, URL, Image string
	}{j, app, r.Recorder.URL(), image})
	return strings.NewReplacer("@APP@", app, "@URL@", r.Recorder.URL()).Replace(b.String()), err
}

func orElse(n, v int) int {
	if n == 0 {
		return v
	}
	return n
}

// Register runs the job, or a new version of it.
func (r *Rig) Register(ctx context.Context, j Job) error {
	text, err := r.HCL(j)
	if err != nil {
		return err
	}
	return r.RegisterHCL(ctx, text)
}

// RegisterHCL runs the job of a text in which @URL@ is the recorder and @APP@ the
// application.
func (r *Rig) RegisterHCL(ctx context.Context, text string) error {
	text = strings.NewReplacer("@APP@", r.App, "@URL@", r.Recorder.URL()).Replace(text)
	job, err := r.Nomad().Jobs().ParseHCL(text, true)
	if err != nil {
		return fmt.Errorf("%w in\n%s", err, text)
	}
	_, _, err = r.Nomad().Jobs().Register(job, write(ctx))
	return err
}

// Purge stops the job, waits until all is over, and has Nomad forget it.
func (r *Rig) Purge(ctx context.Context, job string) error {
	if _, err := r.Ended(ctx, job); err != nil {
		return err
	}
	_, _, err := r.Nomad().Jobs().Deregister(job, true, write(ctx))
	return err
}

// Ended stops the job, waits until all is over, and returns all its allocations,
// newest first.
func (r *Rig) Ended(ctx context.Context, job string) ([]*nomadapi.Allocation, error) {
	if err := r.StopJob(ctx, job); err != nil {
		return nil, err
	}
	return r.Until(ctx, job, "over", func(as []*nomadapi.Allocation) bool {
		for _, a := range as {
			if !a.ClientTerminalStatus() && a.ClientStatus != nomadapi.AllocClientStatusUnknown {
				return false
			}
		}
		return true
	})
}

func write(ctx context.Context) *nomadapi.WriteOptions {
	return (&nomadapi.WriteOptions{}).WithContext(ctx)
}
func query(ctx context.Context) *nomadapi.QueryOptions {
	return (&nomadapi.QueryOptions{}).WithContext(ctx)
}
