package dispatch

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/attempt"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// nomad is a fake Nomad with a parameterized job "job" whose dispatched jobs end at once.
type nomad struct {
	alloc   api.AllocationListStub
	require []string

	mu      sync.Mutex
	meta    map[string]string
	removed bool
}

func (n *nomad) start(t *testing.T) *Jobs {
	t.Helper()
	answer := func(w http.ResponseWriter, v any) {
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/job/job", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, &api.Job{ParameterizedJob: &api.ParameterizedJobConfig{MetaRequired: n.require, MetaOptional: []string{"WQ_ITEM"}}})
	})
	mux.HandleFunc("PUT /v1/job/job/dispatch", func(w http.ResponseWriter, r *http.Request) {
		var req api.JobDispatchRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			t.Error(err)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.meta = req.Meta
		if r.URL.Query().Get("idempotency_token") != "q-0-7-3" {
			t.Errorf("token %q", r.URL.RawQuery)
		}
		answer(w, &api.JobDispatchResponse{DispatchedJobID: "job-1"})
	})
	dead := "dead"
	mux.HandleFunc("GET /v1/job/job-1", func(w http.ResponseWriter, _ *http.Request) { answer(w, &api.Job{Status: &dead}) })
	mux.HandleFunc("GET /v1/job/job-1/allocations", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, []*api.AllocationListStub{&n.alloc})
	})
	mux.HandleFunc("DELETE /v1/job/job-1", func(w http.ResponseWriter, _ *http.Request) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.removed = true
		answer(w, &api.JobDeregisterResponse{})
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	client, err := api.NewClient(&api.Config{Address: s.URL})
	must.NoError(t, err)
	t.Cleanup(client.Close)
	return New(Config{Nomad: client, Job: "job"})
}

func TestDo(t *testing.T) {
	ended := func(code int, failed bool) api.AllocationListStub {
		status := "complete"
		if failed {
			status = "failed"
		}
		return api.AllocationListStub{ID: "a", ClientStatus: status, TaskStates: map[string]*api.TaskState{
			"t": {State: "dead", Failed: failed, Events: []*api.TaskEvent{{Type: api.TaskTerminated, ExitCode: code}}},
		}}
	}
	for name, c := range map[string]struct {
		n    *nomad
		want attempt.Result
		none bool // nothing is dispatched
	}{
		"done":         {n: &nomad{alloc: ended(0, false), require: []string{"WQ_INPUT"}}, want: attempt.Result{Action: queue.Done}},
		"rejected":     {n: &nomad{alloc: ended(65, true)}, want: attempt.Result{Action: queue.Reject, Reason: "task t: exit code 65"}},
		"skipped":      {n: &nomad{alloc: ended(99, true)}, want: attempt.Result{Action: queue.Skip}},
		"failed":       {n: &nomad{alloc: ended(1, true)}, want: attempt.Result{Action: queue.Retry, Reason: "task t: exit code 1"}},
		"missing meta": {n: &nomad{require: []string{"WQ_ATTR_X"}}, want: attempt.Result{Action: queue.Reject, Reason: `job "job" requires the meta WQ_ATTR_X, which the item does not have`}, none: true},
	} {
		t.Run(name, func(t *testing.T) {
			j := c.n.start(t)
			must.NoError(t, j.Ready(t.Context()))
			must.Eq(t, c.want, j.Do(t.Context(), &attempt.Attempt{Queue: "q", ID: queue.ID{Seq: 7}, Claim: 3, Input: "/in"}))
			must.Eq(t, !c.none, c.n.removed)
			if !c.none {
				must.Eq(t, "0-7", c.n.meta["WQ_ITEM"])
			}
		})
	}
}

// A Nomad that is away is not the item's failure.
func TestAway(t *testing.T) {
	client, err := api.NewClient(&api.Config{Address: "http://127.0.0.1:1"})
	must.NoError(t, err)
	defer client.Close()
	j := New(Config{Nomad: client, Job: "job"})
	must.Error(t, j.Ready(t.Context()))
	must.Eq(t, queue.Release, j.Do(t.Context(), &attempt.Attempt{}).Action)
}
