package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/rig"
)

const (
	evictRounds = 5 // of each way to evict
	evictPlaces = 3 // of each job
	evictStep   = 90 * time.Second
)

// Evict evicts a counter in every way that Nomad knows and measures two things:
// whether its hooks were told the right reason, and whether an update is lost that
// its clients had an acknowledgement for.
//
// Two jobs of three instances each keep their checkpoints in Consul. One
// acknowledges at once and relies on the save at the stop, the other acknowledges
// what is in a checkpoint. Each instance has a client that sends one update after
// the other, all the time. In five rounds a node is drained, another one is taken
// by a job of higher priority, both jobs are updated, all instances are restarted
// and one is stopped. A third job is made smaller and stopped. After the rounds a
// client agent is killed five times, its tasks left running, under the job that
// saves before it acknowledges: what the other one loses then is what it has not
// saved.
//
// Results go to out as "bench lifecycle.reason.correct <n> percent", of all stops
// with what prestop and poststop hooks were told, and "bench
// lifecycle.lost_updates <n> count".
func Evict(ctx context.Context, r *rig.Rig, out io.Writer) error {
	e := &evictions{rig: r, out: out, right: map[string]int{}, all: map[string]int{}}
	plain, durable := rig.Job{Name: "bench-plain", Count: evictPlaces}, rig.Job{Name: "bench-sync", Count: evictPlaces, Args: []string{"-sync"}}
	if err := e.begin(ctx, plain, durable); err != nil {
		return err
	}
	for round := range evictRounds {
		if err := e.round(ctx, round); err != nil {
			return fmt.Errorf("evictions, round %d: %w", round+1, err)
		}
	}
	if err := e.end(ctx, plain.Name); err != nil {
		return err
	}
	for round := range evictRounds {
		if err := e.lose(ctx, round); err != nil {
			return fmt.Errorf("lost client, round %d: %w", round+1, err)
		}
	}
	if err := e.end(ctx, durable.Name); err != nil {
		return err
	}
	return e.report()
}

type evictions struct {
	rig  *rig.Rig
	out  io.Writer
	jobs []*evicted

	total, lost int64
	evictions   int // that the clients went through
	right, all  map[string]int
	wrong       []string
}

// evicted is one of the jobs with its clients.
type evicted struct {
	rig.Job
	clients []*rig.Client
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

func (e *evictions) begin(ctx context.Context, jobs ...rig.Job) error {
	for _, j := range jobs {
		v := &evicted{Job: j}
		if err := e.rig.Register(ctx, j); err != nil {
			return err
		}
		var clientCtx context.Context
		clientCtx, v.stop = context.WithCancel(ctx)
		for i := range j.Count {
			c := e.rig.NewClient(j.Name, i)
			v.clients = append(v.clients, c)
			v.wg.Go(func() { c.Run(clientCtx) })
		}
		e.jobs = append(e.jobs, v)
	}
	for _, v := range e.jobs {
		if _, err := e.rig.Running(ctx, v.Name, v.Count); err != nil {
			return err
		}
	}
	return nil
}

// end ends a job, and counts what its clients say.
func (e *evictions) end(ctx context.Context, job string) error {
	i := slices.IndexFunc(e.jobs, func(v *evicted) bool { return v.Name == job })
	v := e.jobs[i]
	// All that was acknowledged must still be there after the last eviction.
	for _, c := range v.clients {
		if err := c.Advance(ctx); err != nil {
			return fmt.Errorf("job %s: %w", job, err)
		}
	}
	v.stop()
	v.wg.Wait()
	e.jobs = slices.Delete(e.jobs, i, i+1)
	for _, c := range v.clients {
		total, lost, notes := c.Lost()
		e.total, e.lost = e.total+total, e.lost+lost
		for _, n := range notes {
			if _, err := fmt.Fprintln(e.out, "# lifecycle, LOST:", n); err != nil {
				return err
			}
		}
	}
	return e.rig.Purge(ctx, job)
}

// up returns the allocations of all jobs.
func (e *evictions) up(ctx context.Context) (all []*nomadapi.Allocation, err error) {
	for _, v := range e.jobs {
		up, err := e.rig.Running(ctx, v.Name, v.Count)
		if err != nil {
			return nil, err
		}
		all = append(all, up...)
	}
	return all, nil
}

// evict does something to the jobs and compares what those allocations were told
// that are then to be gone.
func (e *evictions) evict(ctx context.Context, want string, gone func(*nomadapi.Allocation) bool, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, evictStep)
	defer cancel()
	before, err := e.up(ctx)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := do(ctx); err != nil {
		return fmt.Errorf("%s: %w", want, err)
	}
	n := 0
	for _, a := range before {
		if !gone(a) {
			continue
		}
		n++
		if err := e.told(ctx, a, begin, want); err != nil {
			return err
		}
	}
	if n == 0 {
		return fmt.Errorf("%s: nothing was evicted", want)
	}
	e.evictions += n
	if _, err := e.up(ctx); err != nil {
		return fmt.Errorf("after %s: %w", want, err)
	}
	// The next eviction is to meet instances that work.
	for _, v := range e.jobs {
		for _, c := range v.clients {
			if err := c.Advance(ctx); err != nil {
				return fmt.Errorf("after %s: job %s: %w", want, v.Name, err)
			}
		}
	}
	_, err = fmt.Fprintf(e.out, "# lifecycle, %s: %d of %d instances in %s\n", want, n, len(before), time.Since(begin).Round(10*time.Millisecond))
	return err
}

// told compares what the hooks of an allocation were told.
func (e *evictions) told(ctx context.Context, a *nomadapi.Allocation, since time.Time, want string) error {
	for _, hook := range []string{"prestop", "poststop"} {
		got, err := e.rig.Recorder.Await(ctx, hook+" of "+a.ID, rig.OfAlloc(a.ID), rig.Of(journal.Hook, hook), rig.After(since))
		if err != nil {
			now, e2 := e.rig.Alloc(context.WithoutCancel(ctx), a.ID)
			if e2 == nil {
				err = fmt.Errorf("%w\n%s", err, rig.Describe(now))
			}
			return errors.Join(err, e2)
		}
		e.all[want]++
		if got.Told.Reason == want {
			e.right[want]++
			continue
		}
		e.wrong = append(e.wrong, fmt.Sprintf("%s of %s (%.8s): %q (%s) instead of %q", hook, a.Name, a.ID, got.Told.Reason, got.Told.Detail, want))
	}
	return nil
}

func everyone(*nomadapi.Allocation) bool { return true }

func on(node string) func(*nomadapi.Allocation) bool {
	return func(a *nomadapi.Allocation) bool { return a.NodeID == node }
}

func named(id string) func(*nomadapi.Allocation) bool {
	return func(a *nomadapi.Allocation) bool { return a.ID == id }
}

// busiest is the node with most of the allocations, the round decides between
// equals.
func busiest(as []*nomadapi.Allocation, round int) string {
	count := map[string]int{}
	for _, a := range as {
		count[a.NodeID]++
	}
	best := ""
	for i := range as {
		if id := as[(i+round)%len(as)].NodeID; best == "" || count[id] > count[best] {
			best = id
		}
	}
	return best
}

func (e *evictions) round(ctx context.Context, round int) error {
	r := e.rig
	as, err := e.up(ctx)
	if err != nil {
		return err
	}
	node := busiest(as, round)
	if err := e.evict(ctx, "drained", on(node), func(ctx context.Context) error { return r.Drain(ctx, node) }); err != nil {
		return err
	}
	if as, err = e.up(ctx); err != nil {
		return err
	}
	node = busiest(as, round)
	bully := fmt.Sprintf("bench-preempt-%d", round)
	var end func(context.Context) error
	if err := e.evict(ctx, "preempted", on(node), func(ctx context.Context) (err error) {
		end, err = r.Preempt(ctx, node, bully)
		return err
	}); err != nil {
		return err
	}
	if err := end(ctx); err != nil {
		return err
	}
	if err := e.evict(ctx, "updated", everyone, func(ctx context.Context) error {
		for _, v := range e.jobs {
			v.Meta = fmt.Sprint(round)
			if err := r.Register(ctx, v.Job); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if as, err = e.up(ctx); err != nil {
		return err
	}
	if err := e.evict(ctx, "restarted", everyone, func(ctx context.Context) error {
		for _, a := range as {
			if err := r.Restart(ctx, a.ID, ""); err != nil {
				return err
			}
		}
		for _, a := range as {
			if err := r.Restarted(ctx, a.ID, "app", 0); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, v := range e.jobs {
		up, err := r.Running(ctx, v.Name, v.Count)
		if err != nil {
			return err
		}
		id := up[round%len(up)].ID
		if err := e.evict(ctx, "stopped", named(id), func(ctx context.Context) error { return r.StopAlloc(ctx, id) }); err != nil {
			return err
		}
	}
	return e.final(ctx)
}

// final makes a job smaller and stops it: then nobody takes up its state, so
// nothing is to be saved.
func (e *evictions) final(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, evictStep)
	defer cancel()
	r, job := e.rig, rig.Job{Name: "bench-final", Count: 2}
	if err := r.Register(ctx, job); err != nil {
		return err
	}
	up, err := r.Running(ctx, job.Name, job.Count)
	if err != nil {
		return err
	}
	if err := r.Deployed(ctx, job.Name); err != nil {
		return err
	}
	begin := time.Now()
	if err := r.Scale(ctx, job.Name, 1); err != nil {
		return err
	}
	stays := slices.IndexFunc(up, func(a *nomadapi.Allocation) bool { return strings.HasSuffix(a.Name, "[0]") })
	if err := e.told(ctx, up[1-stays], begin, "scaled-down"); err != nil {
		return err
	}
	if _, err := r.Running(ctx, job.Name, 1); err != nil {
		return err
	}
	begin = time.Now()
	if err := r.StopJob(ctx, job.Name); err != nil {
		return err
	}
	if err := e.told(ctx, up[stays], begin, "stopped"); err != nil {
		return err
	}
	return r.Purge(ctx, job.Name)
}

// lose kills a client's agent. The tasks go on, and are replaced; they are stopped
// when the agent is back.
func (e *evictions) lose(ctx context.Context, round int) error {
	as, err := e.up(ctx)
	if err != nil {
		return err
	}
	node := busiest(as, round)
	return e.evict(ctx, "rescheduled", on(node), func(ctx context.Context) error {
		if err := e.rig.Lose(ctx, node); err != nil {
			return err
		}
		_, err := e.up(ctx)
		return errors.Join(err, e.rig.Find(ctx, node))
	})
}

func (e *evictions) report() error {
	right, all := 0, 0
	var parts []string
	for _, reason := range []string{"drained", "preempted", "updated", "scaled-down", "stopped", "restarted", "rescheduled"} {
		right, all = right+e.right[reason], all+e.all[reason]
		parts = append(parts, fmt.Sprintf("%s %d/%d", reason, e.right[reason], e.all[reason]))
	}
	lines := []string{"# lifecycle.reason: hooks that were told the reason: " + strings.Join(parts, ", ")}
	for _, w := range e.wrong {
		lines = append(lines, "# lifecycle.reason, WRONG: "+w)
	}
	lines = append(lines,
		fmt.Sprintf("bench lifecycle.reason.correct %.2f percent", 100*float64(right)/float64(all)),
		fmt.Sprintf("# lifecycle.lost_updates: %d acknowledged updates, %d evictions of instances with a client", e.total, e.evictions),
		fmt.Sprintf("bench lifecycle.lost_updates %d count", e.lost))
	_, err := fmt.Fprintln(e.out, strings.Join(lines, "\n"))
	return err
}
