package e2e

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
)

// appImage holds the test application as /bin/testapp, and busybox.
const appImage = "nomad-patterns/testapp:1"

// patience is how long a test waits for what must come. It is no figure: a
// machine that builds at the same time is slow.
const patience = 60 * time.Second

// suite is what the tests share: building and starting takes longer than most
// of them.
var suite struct {
	once   sync.Once
	err    error
	app    string // path of the test application
	plugin string // path of the plugin
	dir    string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if suite.dir != "" {
		if err := os.RemoveAll(suite.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// build builds the plugin and the test application, once.
func build(t *testing.T) {
	t.Helper()
	suite.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		if suite.dir, suite.err = os.MkdirTemp("", "np-e2e-"); suite.err != nil {
			return
		}
		if suite.err = os.Chmod(suite.dir, 0o755); suite.err != nil { // the exec driver's user passes through
			return
		}
		suite.app = filepath.Join(suite.dir, "testapp")
		cmd := exec.CommandContext(ctx, "go", "build", "-o", suite.app, "./testapp")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // it also runs in an image without libraries
		if out, err := cmd.CombinedOutput(); err != nil {
			suite.err = fmt.Errorf("build testapp: %w: %s", err, out)
			return
		}
		suite.plugin, suite.err = cluster.BuildPlugin(ctx, os.Stderr)
	})
	must.NoError(t, suite.err)
}

// start starts a cluster with the plugin. Its exec driver's chroot holds only
// the test application and busybox.
func start(t *testing.T, clients int) *cluster.Cluster {
	t.Helper()
	build(t)
	must.NoError(t, cluster.Require(t.Context(), os.Stderr, cluster.Busybox(), cluster.CNIPlugins(), cluster.Iptables()))
	c := clustertest.Start(t, cluster.Config{
		Clients:      clients,
		PluginBinary: suite.plugin,
		ExtraNomadConfig: fmt.Sprintf(`client {
  chroot_env {
    %q = "/bin/testapp"
    "/bin/busybox" = "/bin/busybox"
  }
}`, suite.app),
	})
	if c.HasDriver("docker") {
		must.NoError(t, cluster.BuildImage(t.Context(), appImage, map[string]string{
			"/bin/testapp": suite.app, "/bin/busybox": "/bin/busybox",
		}, cluster.ImageOptions{}))
	}
	return c
}

// inners are the inner drivers that this machine can run.
func inners(c *cluster.Cluster) []string {
	var list []string
	for _, d := range []string{"raw_exec", "exec", "docker"} {
		if c.HasDriver("lifecycle-" + d) {
			list = append(list, d)
		}
	}
	return list
}

// spec is a job with one group of one task that runs the test application.
type spec struct {
	Job       string
	Driver    string // for example "lifecycle-docker"
	Network   string // body of the group's network block; "" is none
	Args      []string
	Lifecycle string // body of the lifecycle block
	Group     string // more in the group
	Task      string // more in the task
	Config    string // more in the config
}

var jobTemplate = template.Must(template.New("job").Funcs(template.FuncMap{"q": func(s string) string { return fmt.Sprintf("%q", s) }}).Parse(`
job {{ q .Job }} {
  type = "service"
  group "app" {
    {{ if .Network }}network {
      {{ .Network }}
    }{{ end }}
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    update {
      min_healthy_time = "0s"
      healthy_deadline = "50s"
      progress_deadline = "55s"
      health_check = "task_states"
    }
    {{ .Group }}
    task "app" {
      driver       = {{ q .Driver }}
      kill_timeout = "10s"
      {{ .Task }}
      config {
        {{ if .Image }}
        image      = {{ q .Image }}
        entrypoint = ["/bin/testapp"]
        {{ if .Ports }}ports = [{{ range .Ports }}{{ q . }},{{ end }}]{{ end }}
        {{ else }}
        command = {{ q .Command }}
        {{ end }}
        args = [{{ range .Args }}{{ q . }},{{ end }}]
        {{ .Config }}
        {{ if .Lifecycle }}lifecycle {
          {{ .Lifecycle }}
        }{{ end }}
      }
      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
`))

// app is the path of the test application as a task of the driver sees it.
func (s spec) app() string {
	if strings.HasSuffix(s.Driver, "raw_exec") {
		return suite.app
	}
	return "/bin/testapp"
}

func (s spec) hcl(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	data := struct {
		spec
		Image, Command string
		Ports          []string
	}{spec: s}
	if strings.HasSuffix(s.Driver, "docker") {
		data.Image = appImage
		if strings.Contains(s.Network, `port "http"`) && !strings.Contains(s.Network, "bridge") {
			data.Ports = []string{"http"}
		}
	} else {
		data.Command = s.app()
	}
	must.NoError(t, jobTemplate.Execute(&b, data))
	return strings.NewReplacer("@APP@", s.app(), "@BUSYBOX@", "/bin/busybox").Replace(b.String())
}

// run registers the job and purges it with the test.
func run(t *testing.T, c *cluster.Cluster, s spec) {
	t.Helper()
	register(t, c, s)
	t.Cleanup(func() {
		_, _, err := c.Nomad().Jobs().Deregister(s.Job, true, nil)
		must.NoError(t, err)
		until(t, c, s.Job, "all ended", func(allocs []*nomadapi.Allocation) bool {
			for _, a := range allocs {
				if !a.ClientTerminalStatus() {
					return false
				}
			}
			return true
		})
	})
}

func register(t *testing.T, c *cluster.Cluster, s spec) {
	t.Helper()
	job, err := c.Nomad().Jobs().ParseHCL(s.hcl(t), true)
	must.NoError(t, err, must.Sprint(s.hcl(t)))
	_, _, err = c.Nomad().Jobs().Register(job, nil)
	must.NoError(t, err)
}

// until waits, with blocking queries, until the job's allocations satisfy ok,
// and returns them, newest first.
func until(t *testing.T, c *cluster.Cluster, job, what string, ok func([]*nomadapi.Allocation) bool) []*nomadapi.Allocation {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var allocs []*nomadapi.Allocation
	err := cluster.Watch(ctx, "job "+job+" is "+what, func(q *nomadapi.QueryOptions) (bool, *nomadapi.QueryMeta, error) {
		stubs, meta, err := c.Nomad().Jobs().Allocations(job, true, q)
		if err != nil {
			return false, meta, err
		}
		allocs = allocs[:0]
		for _, s := range stubs {
			a, _, err := c.Nomad().Allocations().Info(s.ID, nil)
			if err != nil {
				return false, meta, err
			}
			allocs = append(allocs, a)
		}
		sortNewest(allocs)
		return ok(allocs), meta, nil
	})
	if err != nil {
		for _, a := range allocs {
			t.Logf("alloc %s: %s, events: %s", a.ID, a.ClientStatus, strings.Join(events(a), " | "))
		}
	}
	must.NoError(t, err)
	return allocs
}

func sortNewest(allocs []*nomadapi.Allocation) {
	slices.SortFunc(allocs, func(a, b *nomadapi.Allocation) int { return cmp.Compare(b.CreateIndex, a.CreateIndex) })
}

// running waits for one running task and returns its allocation.
func running(t *testing.T, c *cluster.Cluster, job string) *nomadapi.Allocation {
	t.Helper()
	return until(t, c, job, "running", func(as []*nomadapi.Allocation) bool {
		return len(as) > 0 && state(as[0]) == "running"
	})[0]
}

// ended waits for the newest allocation to be over.
func ended(t *testing.T, c *cluster.Cluster, job string) *nomadapi.Allocation {
	t.Helper()
	return until(t, c, job, "ended", func(as []*nomadapi.Allocation) bool {
		return len(as) > 0 && state(as[0]) == "dead" && as[0].ClientTerminalStatus()
	})[0]
}

// stop stops the job without purging it and waits for its end.
func stop(t *testing.T, c *cluster.Cluster, job string) *nomadapi.Allocation {
	t.Helper()
	_, _, err := c.Nomad().Jobs().Deregister(job, false, nil)
	must.NoError(t, err)
	return ended(t, c, job)
}

func state(a *nomadapi.Allocation) string {
	if s := a.TaskStates["app"]; s != nil {
		return s.State
	}
	return ""
}

// events are the task events of the allocation's task, oldest first.
func events(a *nomadapi.Allocation) []string {
	s := a.TaskStates["app"]
	if s == nil {
		return nil
	}
	list := make([]string, 0, len(s.Events))
	for _, e := range s.Events {
		list = append(list, e.Type+": "+e.DisplayMessage)
	}
	return list
}

func hasEvent(a *nomadapi.Allocation, part string) bool {
	return strings.Contains(strings.Join(events(a), "\n"), part)
}

// journal is what the test application of the allocation has written.
func journal(t *testing.T, c *cluster.Cluster, a *nomadapi.Allocation) []string {
	t.Helper()
	matches, err := filepath.Glob(filepath.Join(c.Dir(), "*", "a", a.ID, "alloc", "data", "journal"))
	must.NoError(t, err)
	must.Len(t, 1, matches, must.Sprintf("journal of %s below %s", a.ID, c.Dir()))
	data, err := os.ReadFile(matches[0])
	must.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// processes counts the processes that run the test application for the given
// allocation.
func processes(t *testing.T, allocID string) int {
	t.Helper()
	return processesOf(t, allocID, "testapp")
}

func processesOf(t *testing.T, allocID, command string) int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	must.NoError(t, err)
	n := 0
	for _, dir := range dirs {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil {
			continue // it has ended
		}
		cmd, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue
		}
		if strings.Contains(string(env), "NOMAD_ALLOC_ID="+allocID) && strings.Contains(string(cmd), command) {
			n++
		}
	}
	return n
}

// recorder is an HTTP server on loopback that hooks call from the node.
type recorder struct {
	addr string

	mu    sync.Mutex
	calls []string
}

func record(t *testing.T) *recorder {
	t.Helper()
	r := &recorder{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.calls = append(r.calls, req.Method+" "+req.URL.Path)
		if strings.HasPrefix(req.URL.Path, "/fail") {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	t.Cleanup(srv.Close)
	r.addr = srv.URL
	return r
}

func (r *recorder) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.calls...)
}
