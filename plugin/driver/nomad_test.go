package driver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/jobspec2"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"github.com/zclconf/go-cty/cty/msgpack"
)

// fakeNomad answers as a server of Nomad does, as far as drivers ask it.
type fakeNomad struct {
	url   string
	close func() // ends the server before the test's end

	mu      sync.Mutex // guards all fields below
	answers map[string][]byte
	allocs  map[string]*api.Allocation
	index   uint64
	streams map[*subscriber]bool
	asked   map[string]int
	mute    bool          // requests get no answer
	pass    chan struct{} // closed when mute ends
	scaled  []string      // messages of requests to scale a job
}

// subscriber is one open event stream.
type subscriber struct {
	allocs map[string]bool
	frames chan []byte
}

// newNomad starts a server that knows nothing.
func newNomad(t *testing.T) *fakeNomad {
	t.Helper()
	n := &fakeNomad{
		answers: make(map[string][]byte), allocs: make(map[string]*api.Allocation), index: 100,
		streams: make(map[*subscriber]bool), asked: make(map[string]int), pass: make(chan struct{}),
	}
	server := httptest.NewServer(n)
	n.url = server.URL
	n.close = sync.OnceFunc(func() { server.CloseClientConnections(); server.Close() })
	t.Cleanup(n.close)
	return n
}

// ServeHTTP implements http.Handler.
func (n *fakeNomad) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	n.asked[r.URL.Path]++
	mute, pass := n.mute, n.pass
	n.mu.Unlock()
	if mute {
		select {
		case <-pass:
		case <-r.Context().Done():
			return
		}
	}
	if r.URL.Path == "/v1/event/stream" {
		n.stream(w, r)
		return
	}
	if r.Method != http.MethodGet {
		n.scale(w, r)
		return
	}
	n.mu.Lock()
	answer, ok := n.answers[r.URL.Path]
	n.mu.Unlock()
	if !ok {
		what, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/"), "/")
		http.Error(w, strings.Replace(what, "allocation", "alloc", 1)+" not found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // a client that has gone is no failure of the test
}

// stream sends a heartbeat and then each change of the allocations that were
// asked for.
func (n *fakeNomad) stream(w http.ResponseWriter, r *http.Request) {
	s := &subscriber{allocs: make(map[string]bool), frames: make(chan []byte, 64)}
	for _, topic := range r.URL.Query()["topic"] {
		if id, ok := strings.CutPrefix(topic, "Allocation:"); ok {
			s.allocs[id] = true
		}
	}
	n.mu.Lock()
	n.streams[s] = true
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.streams, s)
	}()
	frame := []byte("{}\n")
	for {
		if _, err := w.Write(frame); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case frame = <-s.frames:
		case <-r.Context().Done():
			return
		}
	}
}

// scale makes a new version of a job whose versions have been answered.
func (n *fakeNomad) scale(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	path := strings.TrimSuffix(r.URL.Path, "/scale")
	var req api.ScalingRequest
	var known struct{ Versions []*api.Job }
	if err := errors.Join(json.NewDecoder(r.Body).Decode(&req), json.Unmarshal(n.answers[path+"/versions"], &known)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	n.scaled = append(n.scaled, req.Message)
	var job api.Job
	err := json.Unmarshal(n.answers[path], &job)
	n.index++
	index, version := n.index, *job.Version+1
	job.JobModifyIndex, job.Version = &index, &version
	for _, g := range job.TaskGroups {
		if *g.Name == req.Target["Group"] {
			count := int(*req.Count)
			g.Count = &count
		}
	}
	known.Versions = append([]*api.Job{&job}, known.Versions...)
	var errJob, errVersions error
	n.answers[path], errJob = json.Marshal(&job)
	n.answers[path+"/versions"], errVersions = json.Marshal(known)
	if err := errors.Join(err, errJob, errVersions); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = fmt.Fprintf(w, `{"EvalID":"e1","EvalCreateIndex":%d,"JobModifyIndex":%d}`, index, index) // as above
}

// answer has a path answered with a value as JSON.
func (n *fakeNomad) answer(t *testing.T, path string, value any) {
	t.Helper()
	data, err := json.Marshal(value)
	must.NoError(t, err)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[path] = data
}

// forget has a path answered with 404.
func (n *fakeNomad) forget(path string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.answers, path)
}

// set changes an allocation and tells all streams that follow it, in which it
// has no job.
func (n *fakeNomad) set(t *testing.T, id string, edit func(*api.Allocation)) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	// A copy: answers of before are still on their way.
	a := *n.allocs[id]
	edit(&a)
	n.index++
	a.ModifyIndex = n.index
	n.allocs[id] = &a
	data, err := json.Marshal(&a)
	must.NoError(t, err)
	n.answers["/v1/allocation/"+id] = data
	event := a
	event.Job = nil
	payload, err := json.Marshal(&event)
	must.NoError(t, err)
	frame := fmt.Sprintf(`{"Index":%d,"Events":[{"Topic":"Allocation","Type":"AllocationUpdated","Key":%q,"Namespace":%q,"Index":%d,"Payload":{"Allocation":%s}}]}`+"\n",
		n.index, id, a.Namespace, n.index, payload)
	for s := range n.streams {
		if s.allocs[id] {
			s.frames <- []byte(frame)
		}
	}
}

// run makes an allocation of a job that is wanted to run, with the identity of
// cfg.
func (n *fakeNomad) run(t *testing.T, cfg *drivers.TaskConfig, job *api.Job) {
	t.Helper()
	n.mu.Lock()
	n.allocs[cfg.AllocID] = &api.Allocation{
		ID: cfg.AllocID, Namespace: cfg.Namespace, JobID: cfg.JobID, Job: job, TaskGroup: cfg.TaskGroupName,
		Name: cfg.JobID + "." + cfg.TaskGroupName + "[" + cfg.Env["NOMAD_ALLOC_INDEX"] + "]", NodeID: cfg.NodeID,
		DesiredStatus: api.AllocDesiredStatusRun, ClientStatus: api.AllocClientStatusPending,
	}
	n.mu.Unlock()
	n.answer(t, "/v1/job/"+cfg.JobID, job)
	n.set(t, cfg.AllocID, func(*api.Allocation) {})
}

// silence has no request answered any more, until the function that it returns
// is called.
func (n *fakeNomad) silence() (speak func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mute, n.pass = true, make(chan struct{})
	return sync.OnceFunc(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.mute = false
		close(n.pass)
	})
}

func (n *fakeNomad) count(path string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[path]
}

// followed reports whether a stream for the allocation is open.
func (n *fakeNomad) followed(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.streams {
		if s.allocs[id] {
			return true
		}
	}
	return false
}

// agent renders the lifecycle block of a plugin's configuration.
func (n *fakeNomad) agent(more string) string {
	return "lifecycle {\n nomad {\n address = \"" + n.url + "\"\n }\n" + more + "\n}\n"
}

// drained and others are what servers write into an allocation that they stop.
func drained(a *api.Allocation) {
	a.DesiredStatus, a.DesiredDescription = api.AllocDesiredStatusStop, "alloc is being migrated"
	a.DesiredTransition.Migrate = new(bool)
	*a.DesiredTransition.Migrate = true
}

func preempted(a *api.Allocation) {
	a.DesiredStatus, a.PreemptedByAllocation = api.AllocDesiredStatusEvict, "77777777-0000-0000-0000-000000000000"
	a.DesiredDescription = "Preempted by alloc ID " + a.PreemptedByAllocation
}

func notNeeded(a *api.Allocation) {
	a.DesiredStatus, a.DesiredDescription = api.AllocDesiredStatusStop, "alloc not needed due to job update"
}

// terminal is what a client writes when all tasks of an allocation have ended.
func terminal(status string) func(*api.Allocation) {
	return func(a *api.Allocation) { a.ClientStatus = status }
}

// stopJob has the job stopped, and with it the allocation.
func (n *fakeNomad) stopJob(t *testing.T, cfg *drivers.TaskConfig) {
	t.Helper()
	n.mu.Lock()
	job := *n.allocs[cfg.AllocID].Job
	n.mu.Unlock()
	stop := true
	job.Stop = &stop
	n.answer(t, "/v1/job/"+cfg.JobID, &job)
	n.set(t, cfg.AllocID, notNeeded)
}

// parseJob reads the text of a job file, as `nomad job run` does before it sends
// it.
func parseJob(t *testing.T, text string) *api.Job {
	t.Helper()
	job, err := jobspec2.Parse("test.nomad.hcl", strings.NewReader(text))
	must.NoError(t, err)
	ns := "prod"
	job.Namespace = &ns
	job.Canonicalize()
	return job
}

// shop is the job of newTaskConfig's task.
func shop(t *testing.T) *api.Job {
	t.Helper()
	return parseJob(t, `job "shop" {
  group "front" {
    count = 3
    task "web" {
      driver = "lifecycle-fake"
    }
  }
}`)
}

// configureAgent gives a driver its configuration in the text of an agent's HCL.
func configureAgent(t *testing.T, d drivers.DriverPlugin, text string) error {
	t.Helper()
	schema, err := d.ConfigSchema()
	must.NoError(t, err)
	value, err := parseConfig(t, schema, text)
	if err != nil {
		return err
	}
	raw, err := msgpack.Marshal(value, value.Type())
	must.NoError(t, err)
	return d.SetConfig(&base.Config{ApiVersion: drivers.ApiVersion010, PluginConfig: raw})
}
