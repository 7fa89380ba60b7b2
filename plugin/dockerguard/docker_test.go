package dockerguard

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	containerapi "github.com/docker/docker/api/types/container"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// place puts the paths of the task's directories where ALLOC and HOST stand.
func place(task *drivers.TaskConfig, v any) any {
	switch v := v.(type) {
	case string:
		v = strings.ReplaceAll(v, "ALLOC", task.AllocDir)
		return strings.ReplaceAll(v, "HOST", filepath.Join(filepath.Dir(task.AllocDir), "host"))
	case []string:
		out := make([]string, len(v))
		for i := range v {
			out[i] = place(task, v[i]).(string)
		}
		return out
	case []words:
		out := make([]words, len(v))
		for i := range v {
			out[i] = place(task, v[i]).(words)
		}
		return out
	case words:
		out := make(words, len(v))
		for k := range v {
			out[k] = place(task, v[k])
		}
		return out
	}
	return v
}

// engine answers what the docker driver asks on the way to a container, which
// it then refuses to create.
type engine struct {
	endpoint string
	listed   chan struct{} // one for each list of containers that was asked for

	mu    sync.Mutex // guards asked
	asked []containerapi.HostConfig
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{listed: make(chan struct{}, 1)}
	answer := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(body)) // a client that has gone fails the test by itself
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("API-Version", "1.41") })
	mux.HandleFunc("/v1.41/info", answer(`{"OSType":"linux"}`))
	mux.HandleFunc("/v1.41/version", answer(`{"Version":"20.10.0","ApiVersion":"1.41"}`))
	mux.HandleFunc("/v1.41/containers/json", func(w http.ResponseWriter, r *http.Request) {
		select {
		case e.listed <- struct{}{}:
		default:
		}
		answer(`[]`)(w, r)
	})
	mux.HandleFunc("/v1.41/images/{name}/json", answer(`{"Id":"sha256:0","Config":{}}`))
	mux.HandleFunc("POST /v1.41/containers/create", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ HostConfig containerapi.HostConfig }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Errorf("decode container: %v", err)
		}
		e.mu.Lock()
		e.asked = append(e.asked, body.HostConfig)
		e.mu.Unlock()
		http.Error(w, `{"message":"the test's engine makes no containers"}`, http.StatusBadRequest)
	})
	// The path of a test's own directory may be too long for a socket.
	dir, err := os.MkdirTemp("", "engine")
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(dir)) })
	socket := filepath.Join(dir, "docker.sock")
	listener, err := net.Listen("unix", socket)
	must.NoError(t, err)
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: mux}}
	server.Start()
	t.Cleanup(server.Close)
	e.endpoint = "unix://" + socket
	return e
}

// containers are what the engine was asked to create.
func (e *engine) containers() []containerapi.HostConfig {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked
}

// TestPinnedDriver shows what the built-in docker driver hands to the engine,
// and that the guard stands before it. When the pinned version of Nomad has the
// fixes, it fails: the guard is to go then.
func TestPinnedDriver(t *testing.T) {
	out := map[string]string{"web/local/out": "HOST"}
	cases := map[string]struct {
		links   map[string]string
		task    words
		reaches func(containerapi.HostConfig) bool // nil: the driver refuses by itself
		driver  string                             // why it refuses
		guard   string                             // why the guard refuses
	}{
		"host pid": {
			task: words{"pid_mode": "host"}, reaches: func(h containerapi.HostConfig) bool { return h.PidMode.IsHost() },
			guard: "pid_mode",
		},
		"pid of a container": {
			task: words{"pid_mode": "container:x"}, reaches: func(h containerapi.HostConfig) bool { return h.PidMode.IsContainer() },
			guard: "pid_mode",
		},
		"host ipc": {
			task: words{"ipc_mode": "host"}, reaches: func(h containerapi.HostConfig) bool { return h.IpcMode.IsHost() },
			guard: "ipc_mode",
		},
		"host uts": {
			task: words{"uts_mode": "host"}, reaches: func(h containerapi.HostConfig) bool { return h.UTSMode.IsHost() },
			guard: "uts_mode",
		},
		"host user": {
			task: words{"userns_mode": "host"}, reaches: func(h containerapi.HostConfig) bool { return h.UsernsMode.IsHost() },
			guard: "userns_mode",
		},
		"host cgroup": {
			task: words{"cgroupns": "host"}, reaches: func(h containerapi.HostConfig) bool { return h.CgroupnsMode.IsHost() },
			guard: "cgroupns",
		},
		"link in volumes": {
			links: out, task: words{"volumes": []string{"local/out:/x"}},
			reaches: func(h containerapi.HostConfig) bool {
				return strings.HasSuffix(h.Binds[len(h.Binds)-1], "/web/local/out:/x")
			},
			guard: "volumes[0]",
		},
		"link in mount": {
			links: out, task: words{"mount": []words{{"type": "bind", "source": "local/out", "target": "/x"}}},
			reaches: func(h containerapi.HostConfig) bool {
				return strings.HasSuffix(h.Mounts[0].Source, "/web/local/out")
			},
			guard: "mount[0].source",
		},
		"link for local": {
			links: map[string]string{"web/local": "HOST"},
			reaches: func(h containerapi.HostConfig) bool {
				return strings.Contains(h.Binds[1], "/web/local:")
			},
			guard: "the task's local directory",
		},
		"absolute volume": {
			task:   words{"volumes": []string{"/etc:/x"}},
			driver: "volumes are not enabled", guard: "volumes[0]",
		},
		"dots in a volume": {
			task:   words{"volumes": []string{"../../host:/x"}},
			driver: "volumes are not enabled", guard: "volumes[0]",
		},
		"absolute mount": {
			task:   words{"mount": []words{{"type": "bind", "source": "/etc", "target": "/x"}}},
			driver: "volumes are not enabled", guard: "mount[0].source",
		},
		"named volume": {
			task:   words{"mount": []words{{"type": "volume", "source": "v", "target": "/x"}}},
			driver: "volumes are not enabled",
		},
		"volume of a driver": {
			task:   words{"volumes": []string{"v:/x"}, "volume_driver": "nfs"},
			driver: "volumes are not enabled",
		},
		"privileged": {task: words{"privileged": true}, driver: "privileged mode is disabled"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			config := encode(t, words{"endpoint": e.endpoint, "image_pull_timeout": "1m"})
			task := newTask(t, nil)
			w := words{"image": "web:1"}
			for k, v := range c.task {
				w[k] = place(task, v)
			}
			must.NoError(t, task.EncodeConcreteDriverConfig(w))
			for at, target := range c.links {
				at = filepath.Join(task.AllocDir, at)
				must.NoError(t, os.RemoveAll(at))
				must.NoError(t, os.Symlink(place(task, target).(string), at))
			}

			p, err := Parse(config, nil)
			must.NoError(t, err)
			if err := p.Check(task); c.guard == "" {
				must.NoError(t, err)
			} else {
				must.ErrorContains(t, err, c.guard)
			}

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d := docker.NewDockerDriver(ctx, hclog.NewNullLogger())
			must.NoError(t, d.SetConfig(&base.Config{PluginConfig: config}))
			<-e.listed // the driver does so on its own, and two first requests at once are a race in its client
			task.Resources = &drivers.Resources{
				NomadResources: &structs.AllocatedTaskResources{}, LinuxResources: &drivers.LinuxResources{},
			}
			_, _, err = d.StartTask(task)
			if c.reaches == nil {
				must.ErrorContains(t, err, c.driver)
				must.SliceEmpty(t, e.containers())
				return
			}
			must.ErrorContains(t, err, "the test's engine makes no containers")
			must.SliceLen(t, 1, e.containers())
			must.True(t, c.reaches(e.containers()[0]))
		})
	}
}

// TestPinnedSchema reminds of the guard when the pinned driver does without.
func TestPinnedSchema(t *testing.T) {
	d := docker.NewDockerDriver(t.Context(), hclog.NewNullLogger())
	schema, err := d.ConfigSchema()
	must.NoError(t, err)
	must.True(t, Needed(schema))
}
