package lifecycle_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/rig"
)

// A task asks for more of its kind: as many as ask, within the bounds of its job.
func TestReplicate(t *testing.T) {
	r := shared(t)
	t.Parallel()
	j := rig.Job{Name: name(t), Count: 1, Lifecycle: `manage {
  replicate { max = 4 }
}`}
	a := up(t, r, j)[0]
	// Nomad lets nobody scale a job while it is deployed.
	must.NoError(t, r.Deployed(patient(t), j.Name))
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		codes = map[int]int{}
		other []string
	)
	for range 5 {
		wg.Go(func() {
			code, body := ask(t, r, a, http.MethodPost, "/v1/replicate", `{"delta":1}`)
			for code == http.StatusServiceUnavailable { // the first one's deployment
				must.NoError(t, r.Deployed(patient(t), j.Name))
				code, body = ask(t, r, a, http.MethodPost, "/v1/replicate", `{"delta":1}`)
			}
			mu.Lock()
			defer mu.Unlock()
			codes[code]++
			other = append(other, body)
		})
	}
	wg.Wait()
	must.Eq(t, map[int]int{http.StatusOK: 3, http.StatusConflict: 2}, codes, must.Sprint(other))
	_, err := r.Running(patient(t), j.Name, 4)
	must.NoError(t, err)

	code, body := ask(t, r, a, http.MethodPost, "/v1/replicate", `{"delta":-9}`)
	must.Eq(t, http.StatusBadRequest, code, must.Sprint(body))
	// While it is deployed nobody may scale it: that is waited for.
	slow := j
	slow.Meta, slow.Lifecycle, slow.Count = "2", j.Lifecycle+"\nready { sleep = \"3s\" }", 4
	must.NoError(t, r.Register(patient(t), slow))
	e := heard(t, r, "a new version's start", rig.OfJob(j.Name), rig.Of(journal.Started), func(e journal.Entry) bool { return e.Alloc != a.ID && e.Index == "0" })
	code, body = ask(t, r, &nomadapi.Allocation{ID: e.Alloc}, http.MethodPost, "/v1/replicate", `{"delta":-1}`)
	must.Eq(t, http.StatusOK, code, must.Sprint(body))
	must.Greater(t, 2*time.Second, time.Since(e.At))
	_, err = r.Running(patient(t), j.Name, 3)
	must.NoError(t, err)
}

// The endpoint of a node has the tasks of all of the node's plugins.
func TestEndpoint(t *testing.T) {
	r := shared(t)
	t.Parallel()
	const client = 2
	offers := `manage {
  health {
    socket = "app.sock"
  }
  metrics {
    socket = "app.sock"
  }
}`
	allocs := map[string]*nomadapi.Allocation{} // by driver
	for _, driver := range []string{"lifecycle-raw_exec", "lifecycle-exec", "lifecycle-docker"} {
		if !r.HasDriver(driver) {
			continue
		}
		j := rig.Job{Name: strings.ReplaceAll(name(t)+"-"+driver, "_", "-"), Driver: driver, Node: r.Nodes()[client].Name, Lifecycle: offers, Memory: 40}
		allocs[driver] = up(t, r, j)[0]
	}
	tasks, err := r.ManagedTasks(patient(t), client)
	must.NoError(t, err)
	for driver, a := range allocs {
		found := false
		for _, task := range tasks {
			if task.AllocID == a.ID {
				found = true
				must.Eq(t, rig.ManagedTask{Job: a.JobID, Task: "app", AllocID: a.ID, State: "running", Driver: driver}, task)
			}
		}
		must.True(t, found, must.Sprintf("%s in %v", driver, tasks))
		get := func(method, path string, want int) string {
			t.Helper()
			code, body, err := r.Managed(patient(t), client, method, fmt.Sprintf("/v1/tasks/%s/app/%s", a.ID[:8], path))
			must.NoError(t, err)
			must.Eq(t, want, code, must.Sprintf("%s %s: %s", driver, path, body))
			return string(body)
		}
		must.Eq(t, "healthy\n", get(http.MethodGet, "health", http.StatusOK))
		must.StrContains(t, get(http.MethodGet, "metrics", http.StatusOK), "app_updates 1")
		must.StrContains(t, get(http.MethodGet, "config", http.StatusNotFound), "offers no config")
		get(http.MethodGet, "logs/stderr", http.StatusOK)
		var saved struct{ Version string }
		must.NoError(t, json.Unmarshal([]byte(get(http.MethodPost, "save", http.StatusOK)), &saved))
		must.Eq(t, "1/1", saved.Version)
		must.StrContains(t, get(http.MethodGet, "state", http.StatusOK), `"version":"1/1"`)
	}
	code, body, err := r.Managed(patient(t), client, http.MethodGet, "/metrics")
	must.NoError(t, err)
	must.Eq(t, http.StatusOK, code)
	for driver := range allocs {
		must.StrContains(t, string(body), fmt.Sprintf(`nomad_lifecycle_endpoint_up{driver=%q} 1`, driver))
	}
}
