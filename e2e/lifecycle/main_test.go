// Package lifecycle_test runs the lifecycle plugin in a real cluster of three
// clients and looks at what the application and its hooks were told, what became of
// its state, and what is left.
package lifecycle_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/rig"
)

// patience is how long a test waits for what must come. It is no figure: a
// machine that builds at the same time is slow.
const patience = 45 * time.Second

// suite is the cluster that the tests share. Tests that kill an agent, drain a node
// or kill a plugin process run one after the other, before those that are parallel.
var suite struct {
	once sync.Once
	rig  *rig.Rig
	err  error
}

func TestMain(m *testing.M) {
	flag.Parse()
	// They wait, most of the time.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if r := suite.rig; r != nil {
		if err := finish(r, code != 0); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// finish ends the cluster. It must leave nothing behind.
func finish(r *rig.Rig, failed bool) error {
	if failed {
		r.Keep()
		fmt.Fprintln(os.Stderr, "logs are kept in", r.LogDir())
	}
	errs := []error{r.Close()}
	left, err := r.Leftovers(context.Background())
	errs = append(errs, err)
	for _, l := range left {
		errs = append(errs, fmt.Errorf("left behind: %s", l))
	}
	return errors.Join(errs...)
}

// shared returns the cluster, which the first test starts.
func shared(t *testing.T) *rig.Rig {
	t.Helper()
	suite.once.Do(func() {
		suite.rig, suite.err = rig.Start(context.Background(), rig.Config{Clients: 3, Docker: cluster.DockerAuto, Progress: os.Stderr})
	})
	must.NoError(t, suite.err)
	return suite.rig
}

func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// name makes a job's name of the test's.
func name(t *testing.T) string {
	return strings.ToLower(strings.NewReplacer("/", "-", "_", "-", " ", "-").Replace(t.Name()))
}

// up runs the job, which ends with the test, and returns its allocations.
func up(t *testing.T, r *rig.Rig, j rig.Job) []*nomadapi.Allocation {
	t.Helper()
	begin(t, r, j)
	as, err := r.Running(patient(t), j.Name, max(1, j.Count))
	must.NoError(t, err)
	return as
}

// begin registers the job, which ends with the test and leaves nothing behind.
func begin(t *testing.T, r *rig.Rig, j rig.Job) {
	t.Helper()
	must.NoError(t, r.Register(patient(t), j))
	endWith(t, r, j.Name)
}

func endWith(t *testing.T, r *rig.Rig, job string) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		as, err := r.Ended(ctx, job)
		must.NoError(t, err)
		left, err := r.Left(ctx, as)
		must.NoError(t, err)
		must.SliceEmpty(t, left)
		if t.Failed() {
			for _, a := range as {
				t.Log(rig.Describe(a))
			}
		}
		must.NoError(t, r.Purge(ctx, job))
	})
}

// replaced waits for the allocation that has taken the place of an old one.
func replaced(t *testing.T, r *rig.Rig, old *nomadapi.Allocation) (now *nomadapi.Allocation) {
	t.Helper()
	_, err := r.Until(patient(t), old.JobID, "replaced", func(as []*nomadapi.Allocation) bool {
		for _, a := range as {
			if a.Name == old.Name && a.CreateIndex > old.CreateIndex && rig.Up(a) {
				now = a
			}
		}
		return now != nil
	})
	must.NoError(t, err)
	return now
}

// over waits for an allocation's end and returns it.
func over(t *testing.T, r *rig.Rig, id string) *nomadapi.Allocation {
	t.Helper()
	a, err := r.Over(patient(t), id)
	must.NoError(t, err)
	return a
}

// heard waits for the first entry that satisfies all filters.
func heard(t *testing.T, r *rig.Rig, what string, filters ...rig.Filter) journal.Entry {
	t.Helper()
	e, err := r.Recorder.Await(patient(t), what, filters...)
	must.NoError(t, err)
	return e
}

// started waits until the task has told of its start, and returns what it began
// with.
func started(t *testing.T, r *rig.Rig, alloc string) journal.Entry {
	t.Helper()
	return heard(t, r, "the start of "+alloc, rig.OfAlloc(alloc), rig.Of(journal.Started))
}

// count has the job's place take n updates and returns the last one's number.
func count(t *testing.T, r *rig.Rig, job string, index, n int) int64 {
	t.Helper()
	place := func(e journal.Entry) bool { return e.Index == strconv.Itoa(index) }
	heard(t, r, "a start", rig.OfJob(job), rig.Of(journal.Started), place)
	starts := r.Recorder.All(rig.OfJob(job), rig.Of(journal.Started), place)
	addr := starts[len(starts)-1].Addr
	last := value(t, addr)
	for range n {
		last++
		must.True(t, takes(t, addr, last))
	}
	return last
}

func value(t *testing.T, addr string) int64 {
	t.Helper()
	req, err := http.NewRequestWithContext(patient(t), http.MethodGet, "http://"+addr+"/value", nil)
	must.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	must.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	must.NoError(t, errors.Join(err, resp.Body.Close()))
	v, err := strconv.ParseInt(strings.TrimSpace(string(body)), 10, 64)
	must.NoError(t, err)
	return v
}

// events are the task events of the allocation's task, oldest first.
func events(a *nomadapi.Allocation, task string) []string {
	s := a.TaskStates[task]
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
	for task := range a.TaskStates {
		if strings.Contains(strings.Join(events(a, task), "\n"), part) {
			return true
		}
	}
	return false
}

// saying waits until the allocation has an event with this text.
func saying(t *testing.T, r *rig.Rig, id, part string) *nomadapi.Allocation {
	t.Helper()
	var a *nomadapi.Allocation
	err := cluster.Watch(patient(t), "allocation "+id+" says "+part, func(q *nomadapi.QueryOptions) (bool, *nomadapi.QueryMeta, error) {
		var meta *nomadapi.QueryMeta
		var err error
		a, meta, err = r.Nomad().Allocations().Info(id, q)
		return err == nil && hasEvent(a, part), meta, err
	})
	if err != nil && a != nil {
		t.Log(rig.Describe(a))
	}
	must.NoError(t, err)
	return a
}

// allocDir is where an allocation lies on this machine.
func allocDir(t *testing.T, r *rig.Rig, id string) string {
	t.Helper()
	matches, err := filepath.Glob(filepath.Join(r.Dir(), "*", "a", id))
	must.NoError(t, err)
	must.Len(t, 1, matches)
	return matches[0]
}

// takes reports whether the application at the address takes an update.
func takes(t *testing.T, addr string, id int64) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(patient(t), http.MethodPost, fmt.Sprintf("http://%s/inc?id=%d", addr, id), nil)
	must.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	return resp.StatusCode == http.StatusOK
}
