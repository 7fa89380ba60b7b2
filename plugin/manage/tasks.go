package manage

import (
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

// upward is the API of the tasks of one process for operators.
type upward struct {
	*server
	driver   string
	registry *Registry
	now      func() time.Time
}

// newUpward makes the API of the tasks in registry. Gatherer has the metrics of
// this process.
func newUpward(s *server, driver string, registry *Registry, gatherer prometheus.Gatherer, now func() time.Time) *upward {
	u := &upward{server: s, driver: driver, registry: registry, now: now}
	const task = "/v1/tasks/{alloc}/{task}"
	s.Mux.HandleFunc("GET /v1/health", func(w http.ResponseWriter, _ *http.Request) {
		httpapi.WriteJSON(w, http.StatusOK, health{Ready: true, Drivers: []reply{{Driver: driver}}})
	})
	s.Mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	s.Mux.HandleFunc("GET /v1/tasks", u.list)
	u.handle("GET "+task, u.state)
	u.handle("GET "+task+"/state", u.state)
	u.handle("GET "+task+"/events", u.events)
	u.handle("GET "+task+"/logs/{stream}", u.logs)
	u.handle("POST "+task+"/save", func(w http.ResponseWriter, r *http.Request, t *Task) { saveNow(w, r, t) })
	for _, k := range []Kind{KindHealth, KindMetrics, KindProfile, KindConfig} {
		u.handle("GET "+task+"/"+string(k), u.passOn(k))
	}
	u.handle("GET "+task+"/profile/{path...}", u.passOn(KindProfile))
	return u
}

// handle routes a pattern with {alloc} and {task} to a handler of that task.
func (u *upward) handle(pattern string, h func(http.ResponseWriter, *http.Request, *Task)) {
	u.Mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		tasks := u.registry.all()
		infos := make([]Info, len(tasks))
		for i, t := range tasks {
			infos[i] = t.Info()
		}
		i, refusal := match(infos, r.PathValue("alloc"), r.PathValue("task"))
		if refusal != nil {
			httpapi.WriteError(w, refusal)
			return
		}
		h(w, r, tasks[i])
	})
}

// listing is all tasks of a process, or of the node.
type listing struct {
	Tasks   []status `json:"tasks"`
	Drivers []reply  `json:"drivers"` // the processes that were asked
}

// reply is what came of asking a process of the node.
type reply struct {
	Driver string `json:"driver"`
	Error  string `json:"error,omitempty"` // why there is no answer
}

type health struct {
	Ready   bool    `json:"ready"`
	Drivers []reply `json:"drivers"`
}

func (u *upward) list(w http.ResponseWriter, _ *http.Request) {
	out := listing{Tasks: []status{}, Drivers: []reply{{Driver: u.driver}}}
	for _, t := range u.registry.all() {
		s, _ := t.Status()
		out.Tasks = append(out.Tasks, u.view(t, s))
	}
	httpapi.WriteJSON(w, http.StatusOK, out)
}

// view describes a task with links to what it offers.
func (u *upward) view(t *Task, s lifecycle.Status) status {
	v := statusOf(t, s, u.now())
	v.Driver = u.driver
	self := "/v1/tasks/" + url.PathEscape(v.AllocID) + "/" + url.PathEscape(v.Task)
	v.Links = map[string]string{"state": self + "/state", "events": self + "/events"}
	for _, o := range t.Offers {
		v.Links[string(o.Kind)] = self + "/" + string(o.Kind)
	}
	if t.AllocDir != "" {
		v.Links["stdout"], v.Links["stderr"] = self+"/logs/stdout", self+"/logs/stderr"
	}
	if t.Info().Saves {
		v.Links["save"] = self + "/save"
	}
	return v
}

func (u *upward) state(w http.ResponseWriter, _ *http.Request, t *Task) {
	s, _ := t.Status()
	httpapi.WriteJSON(w, http.StatusOK, u.view(t, s))
}

func (u *upward) events(w http.ResponseWriter, r *http.Request, t *Task) {
	done, refusal := u.stream()
	if refusal != nil {
		httpapi.WriteError(w, refusal)
		return
	}
	defer done()
	sendEvents(w, r, t, func(s lifecycle.Status) status { return u.view(t, s) })
}

// passOn answers with what the task answers at its offer of a kind.
func (u *upward) passOn(k Kind) func(http.ResponseWriter, *http.Request, *Task) {
	return func(w http.ResponseWriter, r *http.Request, t *Task) {
		o, ok := t.offer(k)
		if !ok {
			httpapi.WriteError(w, httpapi.Errorf(http.StatusNotFound, "", "task %q offers no %s: its job's lifecycle block has no manage { %s { … } }", t.Info().Task, k, k))
			return
		}
		if refusal := o.passOn(w, r); refusal != nil {
			httpapi.WriteError(w, refusal)
		}
	}
}
