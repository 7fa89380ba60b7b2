package manage

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// Kind is what a task can offer to operators.
type Kind string

// The kinds.
const (
	KindHealth  Kind = "health"
	KindMetrics Kind = "metrics"
	KindProfile Kind = "profile" // everything below Path is reached
	KindConfig  Kind = "config"
)

// Offer is an HTTP server of a task that operators reach through the endpoint.
type Offer struct {
	Kind Kind
	// Dial connects to the task. It must end when its context does.
	Dial func(context.Context) (net.Conn, error)
	Path string // begins with a slash
	// Scheme is "http" or "https". Certificates are not checked: Dial leads to
	// the task itself, and nothing secret is sent there.
	Scheme string
}

// Task is a task as operators see it.
type Task struct {
	App
	Offers   []Offer // at most one of each kind
	AllocDir string  // the allocation's directory on the host; "": no logs
}

func (t *Task) offer(k Kind) (Offer, bool) {
	i := slices.IndexFunc(t.Offers, func(o Offer) bool { return o.Kind == k })
	if i < 0 {
		return Offer{}, false
	}
	return t.Offers[i], true
}

// Registry holds the tasks of this process. Its methods may be called from
// several goroutines.
type Registry struct {
	mu    sync.Mutex // guards tasks
	tasks map[taskKey]*Task
}

type taskKey struct{ alloc, task string }

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{tasks: make(map[taskKey]*Task)} }

// Add makes a task known. It takes the place of an earlier start of the same
// task.
func (r *Registry) Add(t *Task) {
	info := t.Info()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tasks[taskKey{info.AllocID, info.Task}] = t
}

// Remove forgets t, unless a later start has taken its place.
func (r *Registry) Remove(t *Task) {
	info := t.Info()
	key := taskKey{info.AllocID, info.Task}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tasks[key] == t {
		delete(r.tasks, key)
	}
}

// all returns the tasks in an order that stays.
func (r *Registry) all() []*Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*Task, 0, len(r.tasks))
	for _, t := range r.tasks {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *Task) int { return compareInfo(a.Info(), b.Info()) })
	return all
}

func compareInfo(a, b Info) int {
	return cmp.Or(
		strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Job, b.Job), strings.Compare(a.Group, b.Group),
		cmp.Compare(a.Index, b.Index), strings.Compare(a.AllocID, b.AllocID), strings.Compare(a.Task, b.Task))
}

// allocPattern is an allocation's ID or the beginning of one. Nomad's own
// commands show 8 characters.
var allocPattern = regexp.MustCompile(`^[0-9a-f-]{8,36}$`)

// match finds the one place of list at which the named task is. The list
// must not have a task twice.
func match(list []Info, alloc, task string) (int, *httpapi.Error) {
	if !allocPattern.MatchString(alloc) {
		return 0, httpapi.Errorf(http.StatusBadRequest, "", "%q is not the ID of an allocation, or at least its first 8 characters", alloc)
	}
	found, ids := -1, []string{}
	for i, info := range list {
		if info.Task == task && strings.HasPrefix(info.AllocID, alloc) {
			found, ids = i, append(ids, info.AllocID)
		}
	}
	switch len(ids) {
	case 0:
		return 0, httpapi.Errorf(http.StatusNotFound, "", "there is no managed task %q of an allocation %s on this node", task, alloc)
	case 1:
		return found, nil
	default:
		return 0, httpapi.Errorf(http.StatusConflict, "", "%s is the beginning of several allocations: %s", alloc, strings.Join(ids, ", "))
	}
}
