package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
)

// agentPatience is how long an agent may take to end after SIGINT.
const agentPatience = 5 * time.Second

// stop does what Stop promises, once.
func (c *Cluster) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.StopTimeout)
	defer cancel()
	errs := []error{c.noteKeep()}
	if c.nomad != nil && c.nodes != nil { // it was ready once
		if err := c.state.stopJobs(ctx, c.nomad, c.cfg.StopTimeout/2); err != nil {
			// What does not stop by itself is killed below.
			say(c.cfg.Progress, "stop jobs: %v", err)
		}
	}
	errs = append(errs, c.state.endAgents(ctx))
	errs = append(errs, c.clear(ctx))
	return errors.Join(errs...)
}

// agentsAlive lists the names of the agents that run.
func (s *stateFile) agentsAlive() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, id := range s.Agents {
		if id.alive() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// stopJobs deregisters all jobs and waits until their allocations on running
// clients have ended.
func (s *stateFile) stopJobs(ctx context.Context, nomad *nomadapi.Client, patience time.Duration) error {
	names := s.agentsAlive()
	if !slices.Contains(names, "server") {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	jobs, _, err := nomad.Jobs().List((&nomadapi.QueryOptions{Namespace: "*"}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	for _, j := range jobs {
		if j.Stop {
			continue
		}
		q := (&nomadapi.WriteOptions{Namespace: j.Namespace}).WithContext(ctx)
		// Not purged: the allocations of a purged job are no longer listed, and
		// could not be waited for. A parent takes its children along, so one
		// may be gone already.
		if _, _, err := nomad.Jobs().Deregister(j.ID, false, q); err != nil && !strings.Contains(err.Error(), "not found") {
			return fmt.Errorf("stop job %q: %w", j.ID, err)
		}
	}
	return Watch(ctx, "all allocations have ended", func(q *nomadapi.QueryOptions) (bool, *nomadapi.QueryMeta, error) {
		q.Namespace = "*"
		allocs, meta, err := nomad.Allocations().List(q)
		running := slices.ContainsFunc(allocs, func(a *nomadapi.AllocationListStub) bool {
			ended := a.ClientStatus != nomadapi.AllocClientStatusRunning && a.ClientStatus != nomadapi.AllocClientStatusPending
			return !ended && slices.Contains(names, a.NodeName)
		})
		return err == nil && !running, meta, err
	})
}

// endAgents stops the agents: the clients at the same time, then the Nomad
// server, then the Consul agents, since each uses the next.
func (s *stateFile) endAgents(ctx context.Context) error {
	s.mu.Lock()
	agents := map[string]ident{}
	for name, id := range s.Agents {
		agents[name] = id
	}
	s.mu.Unlock()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for name, id := range agents {
		if name == "server" || strings.HasPrefix(name, "consul") {
			continue
		}
		wg.Go(func() {
			err := id.end(ctx, agentPatience)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	names := slices.Sorted(maps.Keys(agents)) // "consul" before "consul0"
	slices.Reverse(names)
	for _, name := range names { // the clients among them have ended
		errs = append(errs, agents[name].end(ctx, agentPatience))
	}
	return errors.Join(errs...)
}

// end stops a process, which need not be a child of this one, with SIGINT and
// after the patience with SIGKILL.
func (i ident) end(ctx context.Context, patience time.Duration) error {
	if !i.alive() {
		return nil
	}
	if err := i.signal(syscall.SIGINT); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for i.alive() {
		select {
		case <-ctx.Done():
			return i.signal(syscall.SIGKILL)
		case <-tick.C:
		}
	}
	return nil
}
