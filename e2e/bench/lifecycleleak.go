package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/rig"
)

const (
	leakKills = 60
	leakSpan  = 2 * time.Second // within which the kill falls, after the start or the stop was asked for
)

// Leak kills the plugin with SIGKILL sixty times, at random moments of the starts and
// the stops of tasks that have every kind of hook and a checkpoint, with every driver
// that this machine can run. Half of the starts that are hit are stopped at once, so
// that Nomad does not start them again. When a task is over there must be nothing
// left of it: no process, no executor, no container, and nothing in the list of the
// node's management endpoint.
//
// The result goes to out as "bench lifecycle.leaked <n> count".
func Leak(ctx context.Context, r *rig.Rig, out io.Writer) error {
	l := &leaks{rig: r, out: out}
	for _, d := range []string{"raw_exec", "exec", "docker"} {
		if r.HasDriver("lifecycle-" + d) {
			l.drivers = append(l.drivers, "lifecycle-"+d)
		}
	}
	var wg sync.WaitGroup
	clients := len(r.Nodes())
	errs := make([]error, clients)
	for i := range clients {
		wg.Go(func() {
			for n := i; n < leakKills && errs[i] == nil; n += clients {
				errs[i] = l.one(ctx, i, n)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("leak: %w", err)
	}
	_, err := fmt.Fprintf(out, "# lifecycle.leaked: %d kills of the plugin (%s), in starts %d, of which %d were stopped at once, in stops %d\nbench lifecycle.leaked %d count\n",
		l.starts+l.cut+l.stops, strings.Join(l.drivers, ", "), l.starts+l.cut, l.cut, l.stops, l.left)
	return err
}

type leaks struct {
	rig     *rig.Rig
	out     io.Writer
	drivers []string

	mu                       sync.Mutex // guards the fields below
	starts, cut, stops, left int
}

// one is a task of which the start or the stop is hit.
func (l *leaks) one(ctx context.Context, client, n int) error {
	ctx, cancel := context.WithTimeout(ctx, evictStep)
	defer cancel()
	r := l.rig
	j := rig.Job{
		Name: fmt.Sprintf("bench-leak-%d", n), Driver: l.drivers[n/len(r.Nodes())%len(l.drivers)], Node: r.Nodes()[client].Name,
		Restarts: 5, Memory: 40,
		Lifecycle: `
prestart {
  exec { command = ["@APP@", "-journal=@URL@", "-note=prestart"] }
}
prestart {
  http { url = "@URL@/hook/slow?slow=200ms" }
}
poststart {
  exec { command = ["@APP@", "-journal=@URL@", "-note=poststart"] }
}
ready {
  http {
    socket = "app.sock"
    path   = "/ready"
  }
  interval = "50ms"
}
ready { sleep = "300ms" }
prestop { sleep = "300ms" }
poststop {
  http { url = "@URL@/hook/slow?slow=200ms" }
}`,
	}
	moment := rand.N(leakSpan)
	kind, count := "start", &l.starts
	switch n % 4 {
	case 1, 3:
		kind, count = "stop", &l.stops
	case 2:
		kind, count = "start, then stopped", &l.cut
	}
	begin := time.Now()
	if err := r.Register(ctx, j); err != nil {
		return err
	}
	_, err := r.Until(ctx, j.Name, "placed", func(as []*nomadapi.Allocation) bool { return len(as) > 0 })
	if err != nil {
		return err
	}
	if kind == "stop" {
		if _, err = r.Running(ctx, j.Name, 1); err != nil {
			return err
		}
		if err := r.StopJob(ctx, j.Name); err != nil {
			return err
		}
	}
	select {
	case <-time.After(moment):
	case <-ctx.Done():
		return ctx.Err()
	}
	for { // it may just be starting anew
		killed, err := r.KillPlugin(client, j.Driver)
		if err != nil {
			return err
		}
		if killed {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("no process of %s: %w", j.Driver, ctx.Err())
		}
	}
	if kind == "start" {
		if _, err = r.Running(ctx, j.Name, 1); err != nil {
			return fmt.Errorf("%s killed %s after the start: %w", j.Driver, moment, err)
		}
	}
	until := time.Since(begin).Round(time.Second) // what took long, if the time is over
	as, err := r.Ended(ctx, j.Name)
	if err != nil {
		return fmt.Errorf("%s killed %s after the %s, asked to end %s after it was registered: %w", j.Driver, moment, kind, until, err)
	}
	left, err := r.Left(ctx, as)
	if err != nil {
		return err
	}
	tasks, err := r.ManagedTasks(ctx, client)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if t.Job == j.Name {
			left = append(left, fmt.Sprintf("in the endpoint's list: %s of %s, %s", t.Task, t.AllocID, t.State))
		}
	}
	if err := r.Purge(ctx, j.Name); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	*count++
	l.left += len(left)
	for _, what := range left {
		if _, err := fmt.Fprintf(l.out, "# lifecycle.leaked, %s killed %s after the %s: LEFT %s\n", j.Driver, moment.Round(time.Millisecond), kind, what); err != nil {
			return err
		}
	}
	return nil
}
