package manage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// fakeNomad answers for one job as the servers of Nomad 1.11 do. Errors are
// text.
type fakeNomad struct {
	edit   func(*api.Job) // what is special about the job
	answer func(w http.ResponseWriter, r *http.Request) bool
	commit func() // runs between the comparison of the index and the commit
	kept   int    // versions of the job that are remembered

	mu       sync.Mutex
	index    uint64
	versions []*api.Job // the newest first
	requests []api.ScalingRequest
	blocked  int // scale requests that still meet a deployment
}

func newNomad(t *testing.T, count int, edit func(*api.Job)) (*fakeNomad, *api.Client) {
	t.Helper()
	n := &fakeNomad{edit: edit, index: 100, kept: 6}
	n.put(count)
	srv := httptest.NewServer(n)
	t.Cleanup(srv.Close)
	c, err := api.NewClient(&api.Config{Address: srv.URL, HttpClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
	must.NoError(t, err)
	return n, c
}

// put makes the next version of the job.
func (n *fakeNomad) put(count int) *api.Job {
	n.index++
	version, index := uint64(len(n.versions)), n.index
	name, kind := "shop/web", "service"
	group := api.NewTaskGroup("web", count)
	job := &api.Job{ID: &name, Name: &name, Type: &kind, Version: &version, JobModifyIndex: &index, TaskGroups: []*api.TaskGroup{api.NewTaskGroup("db", 1), group}}
	if n.edit != nil {
		n.edit(job)
	}
	n.versions = append([]*api.Job{job}, n.versions...)
	return job
}

func (n *fakeNomad) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return *n.versions[0].TaskGroups[1].Count
}

func (n *fakeNomad) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if n.answer != nil && n.answer(w, r) {
		return
	}
	if ns := r.URL.Query().Get("namespace"); ns != "prod" {
		http.Error(w, "wrong namespace "+ns, http.StatusInternalServerError)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch r.Method + " " + r.URL.EscapedPath() {
	case "GET /v1/job/shop%2Fweb":
		_ = json.NewEncoder(w).Encode(n.versions[0])
	case "GET /v1/job/shop%2Fweb/versions":
		_ = json.NewEncoder(w).Encode(api.JobVersionsResponse{Versions: n.versions[:min(n.kept, len(n.versions))]})
	case "PUT /v1/job/shop%2Fweb/scale":
		n.scale(w, r)
	default:
		text(w, 404, "Invalid URL "+r.URL.EscapedPath())
	}
}

func text(w http.ResponseWriter, code int, says string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = fmt.Fprint(w, says)
}

// scale is Job.Scale: it compares the index with the job that it has seen, and
// commits without comparing again.
func (n *fakeNomad) scale(w http.ResponseWriter, r *http.Request) {
	var req api.ScalingRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		text(w, 400, err.Error())
		return
	}
	n.requests = append(n.requests, req)
	job := n.versions[0]
	if s := job.TaskGroups[1].Scaling; s != nil && *s.Max < *req.Count {
		text(w, 400, fmt.Sprintf("group count was greater than scaling policy maximum: %d > %d", *req.Count, *s.Max))
		return
	}
	if n.blocked > 0 {
		n.blocked--
		text(w, 400, "job scaling blocked due to active deployment")
		return
	}
	if req.JobModifyIndex != *job.JobModifyIndex {
		text(w, 500, fmt.Sprintf("Enforcing job modify index %d: job exists with conflicting job modify index: %d", req.JobModifyIndex, *job.JobModifyIndex))
		return
	}
	if n.commit != nil {
		n.mu.Unlock()
		n.commit()
		n.mu.Lock()
	}
	job = n.put(int(*req.Count))
	_ = json.NewEncoder(w).Encode(api.JobRegisterResponse{EvalID: "e-" + fmt.Sprint(n.index), JobModifyIndex: *job.JobModifyIndex})
}

func wish(delta int64) ScaleRequest {
	return ScaleRequest{Delta: delta, Task: Info{
		Namespace: "prod", Job: "shop/web", Group: "web", Task: "app", AllocID: allocA,
		Replicate: &Bounds{Min: 1, Max: 10},
	}}
}

// fastScaler keeps little time between writes: the fake Nomad answers at once.
func fastScaler(c *api.Client) *Scaler {
	s := NewScaler(c, hclog.NewNullLogger())
	s.turns.least = 2 * time.Millisecond
	return s
}

func replicate(t *testing.T, c *api.Client, r ScaleRequest, limit time.Duration) (Scaled, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return fastScaler(c).Replicate(ctx, r)
}

func TestScaler_Asks(t *testing.T) {
	n, c := newNomad(t, 3, nil)
	r := wish(2)
	r.Reason = "queue is long"
	out, err := replicate(t, c, r, patience)
	must.NoError(t, err)
	must.Eq(t, Scaled{Count: 5, Previous: 3, EvalID: "e-102"}, out)
	must.Eq(t, 5, n.count())
	must.Len(t, 1, n.requests)
	got := n.requests[0]
	must.Eq(t, 101, got.JobModifyIndex)
	must.Eq(t, "asked by task app of alloc "+allocA+": queue is long", got.Message)
	must.Eq(t, map[string]string{"Namespace": "prod", "Job": "shop/web", "Group": "web"}, got.Target)

	out, err = replicate(t, c, wish(-4), patience)
	must.NoError(t, err)
	must.Eq(t, 1, out.Count)
	must.Eq(t, 5, out.Previous)
}

func TestScaler_Refusals(t *testing.T) {
	scaling := func(low, high int64) func(*api.Job) {
		return func(j *api.Job) { j.TaskGroups[1].Scaling = &api.ScalingPolicy{Min: &low, Max: &high} }
	}
	with := func(edit func(*ScaleRequest)) ScaleRequest {
		r := wish(1)
		edit(&r)
		return r
	}
	yes, parent := true, "shop"
	says := func(code int, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			text(w, code, body)
			return true
		}
	}
	onRead := func(code int, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			text(w, code, body)
			return true
		}
	}
	for name, c := range map[string]struct {
		r      ScaleRequest
		edit   func(*api.Job)
		answer func(http.ResponseWriter, *http.Request) bool
		is     error
		code   int
		want   string
	}{
		"nothing":           {wish(0), nil, nil, nil, 400, "delta: 0 changes nothing"},
		"not permitted":     {with(func(r *ScaleRequest) { r.Task.Replicate = nil }), nil, nil, nil, 403, noReplicate},
		"huge":              {wish(11), nil, nil, ErrBounds, 400, "11 is more than the 10"},
		"hugely fewer":      {wish(-11), nil, nil, ErrBounds, 400, "-11 is more than the 10"},
		"smallest number":   {wish(-1 << 63), nil, nil, ErrBounds, 400, "is more than the 10"},
		"above its max":     {wish(8), nil, nil, ErrBounds, 409, `delta: group "web" has 3, and max is 10 by the task's replicate block: outside the bounds`},
		"below its min":     {wish(-3), nil, nil, ErrBounds, 409, `group "web" has 3, and min is 1 by the task's replicate block`},
		"below zero":        {with(func(r *ScaleRequest) { r.Delta, r.Task.Replicate.Min = -4, -9 }), nil, nil, ErrBounds, 409, "min is 0"},
		"above scaling max": {wish(2), scaling(1, 4), nil, ErrBounds, 409, `group "web" has 3, and max is 4 by the group's scaling block`},
		"below scaling min": {wish(-1), scaling(3, 9), nil, ErrBounds, 409, "min is 3 by the group's scaling block"},

		"system":        {wish(1), func(j *api.Job) { *j.Type = "system" }, nil, ErrUnscalable, 409, `job "shop/web" has type "system", which runs once on each node`},
		"sysbatch":      {wish(1), func(j *api.Job) { *j.Type = "sysbatch" }, nil, ErrUnscalable, 409, `type "sysbatch"`},
		"periodic":      {wish(1), func(j *api.Job) { j.Periodic = &api.PeriodicConfig{} }, nil, ErrUnscalable, 409, "only a template"},
		"parameterized": {wish(1), func(j *api.Job) { j.ParameterizedJob = &api.ParameterizedJobConfig{} }, nil, ErrUnscalable, 409, "only a template"},
		"dispatched": {wish(1), func(j *api.Job) {
			j.ParentID, j.Dispatched, j.ParameterizedJob = &parent, true, &api.ParameterizedJobConfig{}
		}, nil, ErrUnscalable, 409, `is one run of "shop"; dispatch or start another run instead`},
		"stopped":      {wish(1), func(j *api.Job) { j.Stop = &yes }, nil, ErrUnscalable, 409, "is stopped"},
		"group gone":   {with(func(r *ScaleRequest) { r.Task.Group = "api" }), nil, nil, ErrUnscalable, 409, `has no group "api" any more`},
		"job gone":     {wish(1), nil, onRead(404, "job not found"), ErrUnscalable, 409, `does not know job "shop/web" in namespace "prod"`},
		"gone between": {wish(1), nil, says(404, `job "shop/web" not found`), ErrUnscalable, 409, "any more"},
		"not Nomad":    {wish(1), nil, onRead(200, "{}"), nil, 502, "is the address Nomad's?"},

		"denied to read":   {wish(1), nil, onRead(403, "Permission denied"), ErrDenied, 403, `capabilities = ["read-job", "scale-job"]`},
		"denied to scale":  {wish(1), nil, says(403, "Permission denied"), ErrDenied, 403, `nomad acl policy apply`},
		"denied, wrapped":  {wish(1), nil, says(500, "rpc error: Permission denied"), ErrDenied, 403, `namespace "prod"`},
		"token unknown":    {wish(1), nil, says(403, "ACL token not found"), ErrDenied, 403, "token_file"},
		"token expired":    {wish(1), nil, says(500, "ACL token expired"), ErrDenied, 403, "token_file"},
		"turned off":       {wish(1), nil, says(403, "Job registration, dispatch, and scale are disabled by the scheduler configuration"), ErrDenied, 403, "reject_job_registration"},
		"policy maximum":   {wish(1), nil, says(400, "group count was greater than scaling policy maximum: 4 > 3"), ErrBounds, 409, "scaling policy maximum: 4 > 3"},
		"policy minimum":   {wish(1), nil, says(400, "group count was less than scaling policy minimum: 1 < 2"), ErrBounds, 409, "scaling policy minimum"},
		"job_max_count":    {wish(1), nil, says(500, "total count was greater than configured job_max_count: 50001 > 50000"), ErrBounds, 409, "job_max_count"},
		"no leader":        {wish(1), nil, says(500, "No cluster leader"), nil, 503, "No cluster leader"},
		"leader lost":      {wish(1), nil, says(500, "leadership lost while committing log"), ErrUnknown, 502, "it may have been done all the same"},
		"too many clients": {wish(1), nil, onRead(429, "Your IP is issuing too many concurrent connections"), nil, 503, "429"},
		"other refusal":    {wish(1), nil, says(400, "missing task group name for scaling action"), nil, 502, "missing task group name"},
		"cut off": {wish(1), nil, func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				panic(http.ErrAbortHandler)
			}
			return false
		}, ErrUnknown, 502, "no answer of Nomad"},
	} {
		t.Run(name, func(t *testing.T) {
			n, cl := newNomad(t, 3, c.edit)
			n.answer = c.answer
			out, err := replicate(t, cl, c.r, patience)
			must.Eq(t, Scaled{}, out)
			var e *httpapi.Error
			must.True(t, errors.As(err, &e))
			must.StrContains(t, err.Error(), c.want)
			must.Eq(t, c.code, e.Status)
			if c.is != nil {
				must.ErrorIs(t, err, c.is)
			} else {
				must.False(t, errors.Is(err, ErrUnknown))
			}
			must.Eq(t, c.code == 503, e.RetryAfter > 0)
			must.Eq(t, 3, n.count())
		})
	}
}

func TestScaler_Unreachable(t *testing.T) {
	c, err := api.NewClient(&api.Config{Address: "http://" + freePort(t), HttpClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
	must.NoError(t, err)
	_, err = replicate(t, c, wish(1), patience)
	must.ErrorContains(t, err, "read the job: no answer of Nomad: ")
	must.Eq(t, 502, appError(err).Status)
}

// A deployment is waited for; when time is up the error says that it was.
func TestScaler_Deployment(t *testing.T) {
	n, c := newNomad(t, 3, nil)
	n.blocked = 3
	out, err := replicate(t, c, wish(1), patience)
	must.NoError(t, err)
	must.Eq(t, 4, out.Count)
	must.Len(t, 4, n.requests)

	n.blocked = 1 << 30
	_, err = replicate(t, c, wish(1), 200*time.Millisecond)
	must.ErrorIs(t, err, ErrBlocked)
	e := appError(err)
	must.Eq(t, 503, e.Status)
	must.Eq(t, retryLater, e.RetryAfter)
	must.StrContains(t, e.Message, "while its deployment runs")
	must.Eq(t, 4, n.count())
}

// The same when time is up in the middle of a request.
func TestScaler_DeploymentCut(t *testing.T) {
	n, c := newNomad(t, 3, nil)
	n.blocked = 1
	ctx, cancel := context.WithCancel(context.Background())
	reads := 0
	n.answer = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		if reads++; reads == 1 {
			return false
		}
		cancel()
		<-r.Context().Done()
		return true
	}
	_, err := fastScaler(c).Replicate(ctx, wish(1))
	must.ErrorIs(t, err, ErrBlocked)
}

// Time that is up while Nomad has the request leaves it open what has happened.
func TestScaler_TimeUp(t *testing.T) {
	n, c := newNomad(t, 3, nil)
	ctx, cancel := context.WithCancel(context.Background())
	n.answer = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body) // before, a server does not notice that the client leaves
		cancel()
		<-r.Context().Done()
		return true
	}
	_, err := fastScaler(c).Replicate(ctx, wish(1))
	must.ErrorIs(t, err, ErrUnknown)
	must.Eq(t, 504, appError(err).Status)
}

// Many requests of many processes each count, also when Nomad lets several of
// them pass at once.
func TestScaler_Concurrent(t *testing.T) {
	const processes, each = 4, 5
	for name, commit := range map[string]func(){
		"Nomad compares":       nil,
		"Nomad lets both pass": func() { time.Sleep(time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			n, c := newNomad(t, 1, nil)
			n.commit = commit
			n.kept = 1000 // a busy machine may keep one of them waiting
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			var wg sync.WaitGroup
			errs := make(chan error, processes*each)
			for range processes {
				s := fastScaler(c)
				for range each {
					wg.Go(func() {
						r := wish(1)
						r.Task.Replicate = &Bounds{Min: 1, Max: 100}
						out, err := s.Replicate(ctx, r)
						if err == nil && out.Count-out.Previous != 1 {
							err = fmt.Errorf("from %d to %d", out.Previous, out.Count)
						}
						errs <- err
					})
				}
			}
			wg.Wait()
			close(errs)
			for err := range errs {
				must.NoError(t, err)
			}
			must.Eq(t, 1+processes*each, n.count())
		})
	}
}

// A count that was overwritten is added again; if that is outside the bounds,
// the one that has overwritten it is refused and the other one keeps its own.
func TestScaler_Overwritten(t *testing.T) {
	for name, c := range map[string]struct {
		limit     int64
		succeed   int
		wantCount int
	}{
		"both":           {10, 2, 5},
		"one is refused": {4, 1, 4},
	} {
		t.Run(name, func(t *testing.T) {
			n, cl := newNomad(t, 3, nil)
			var both sync.WaitGroup
			both.Add(2)
			var once [2]sync.Once
			turn := 0
			n.commit = func() { // the first two meet
				n.mu.Lock()
				me := turn
				turn++
				n.mu.Unlock()
				if me < 2 {
					once[me].Do(both.Done)
					both.Wait()
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			var wg sync.WaitGroup
			errs := make(chan error, 2)
			for range 2 {
				wg.Go(func() {
					r := wish(1)
					r.Task.Replicate = &Bounds{Min: 1, Max: c.limit}
					_, err := fastScaler(cl).Replicate(ctx, r)
					errs <- err
				})
			}
			wg.Wait()
			close(errs)
			succeeded := 0
			for err := range errs {
				if err == nil {
					succeeded++
				} else {
					must.ErrorIs(t, err, ErrBounds)
				}
			}
			must.Eq(t, c.succeed, succeeded)
			must.Eq(t, c.wantCount, n.count())
		})
	}
}

// What cannot be told is not called a success.
func TestScaler_VersionsUnknown(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		want   string
	}{
		"unreadable": {func(w http.ResponseWriter) { text(w, 500, "No cluster leader") }, "No cluster leader"},
		"forgotten":  {func(w http.ResponseWriter) { text(w, 200, `{"Versions":[]}`) }, "has forgotten"},
	} {
		t.Run(name, func(t *testing.T) {
			n, cl := newNomad(t, 3, nil)
			n.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/versions") {
					c.answer(w)
					return true
				}
				return false
			}
			_, err := replicate(t, cl, wish(1), patience)
			must.ErrorIs(t, err, ErrUnknown)
			must.ErrorContains(t, err, c.want)
			must.Eq(t, 502, appError(err).Status)
		})
	}
}

// One whose turn does not come in time is told so, and leaves nothing behind.
func TestTurns(t *testing.T) {
	all := turns{least: time.Millisecond, jobs: make(map[[2]string]*turn)}
	ctx := context.Background()
	_, done, ok := all.take(ctx, "prod", "shop")
	must.True(t, ok)
	short, cancel := context.WithCancel(ctx)
	cancel()
	_, _, ok = all.take(short, "prod", "shop")
	must.False(t, ok)
	_, other, ok := all.take(ctx, "prod", "bank") // another job's turn
	must.True(t, ok)
	other()
	got := make(chan struct{})
	go func() {
		one, done, ok := all.take(ctx, "prod", "shop")
		if ok {
			all.met(one, true)
			done()
			close(got)
		}
	}()
	done()
	<-got
	must.MapEmpty(t, all.jobs)
}
