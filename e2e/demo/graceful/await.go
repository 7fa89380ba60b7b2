package graceful

import (
	"context"
	"fmt"
	"strings"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
)

const (
	// taskName is the name of the template's task.
	taskName = "web"
	// waitTime is how long one blocking query of Consul may stay unanswered.
	waitTime = 30 * time.Second
)

func query(ctx context.Context) *nomadapi.QueryOptions {
	return (&nomadapi.QueryOptions{}).WithContext(ctx)
}

// awaitDeployment returns when the deployment of the job's current version has
// succeeded, and fails when it has failed.
func (s *Service) awaitDeployment(ctx context.Context) error {
	job, _, err := s.nomad.Jobs().Info(s.opts.Name, query(ctx))
	if err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	return cluster.Watch(ctx, "the deployment has succeeded", func(q *nomadapi.QueryOptions) (bool, *nomadapi.QueryMeta, error) {
		d, meta, err := s.nomad.Jobs().LatestDeployment(s.opts.Name, q)
		if err != nil || d == nil || d.JobVersion < *job.Version {
			return false, meta, err
		}
		switch d.Status {
		case nomadapi.DeploymentStatusSuccessful:
			return true, meta, nil
		case nomadapi.DeploymentStatusFailed, nomadapi.DeploymentStatusCancelled, nomadapi.DeploymentStatusBlocked:
			return false, meta, fmt.Errorf("deployment is %s: %s", d.Status, d.StatusDescription)
		}
		return false, meta, nil
	})
}

func (s *Service) awaitAlloc(ctx context.Context, id, what string, ok func(*nomadapi.Allocation) bool) error {
	return cluster.Watch(ctx, what, func(q *nomadapi.QueryOptions) (bool, *nomadapi.QueryMeta, error) {
		a, meta, err := s.nomad.Allocations().Info(id, q)
		if err != nil {
			return false, meta, err
		}
		if terminal(a.ClientStatus) {
			return false, meta, fmt.Errorf("allocation is %s: %s", a.ClientStatus, a.ClientDescription)
		}
		return ok(a), meta, nil
	})
}

func (s *Service) awaitAllocs(ctx context.Context, what string, ok func([]*nomadapi.AllocationListStub) bool) error {
	return cluster.Watch(ctx, what, func(q *nomadapi.QueryOptions) (bool, *nomadapi.QueryMeta, error) {
		allocs, meta, err := s.nomad.Jobs().Allocations(s.opts.Name, false, q)
		return err == nil && ok(allocs), meta, err
	})
}

// awaitAway returns when no task of the job runs on the node and all instances run
// elsewhere.
func (s *Service) awaitAway(ctx context.Context, nodeID string) error {
	return s.awaitAllocs(ctx, "all instances run on other nodes", func(allocs []*nomadapi.AllocationListStub) bool {
		elsewhere := 0
		for _, a := range allocs {
			switch {
			case a.NodeID == nodeID && !terminal(a.ClientStatus):
				return false
			case a.NodeID != nodeID && a.DesiredStatus == nomadapi.AllocDesiredStatusRun && a.ClientStatus == nomadapi.AllocClientStatusRunning:
				elsewhere++
			}
		}
		return elsewhere == s.opts.Count
	})
}

// awaitPassing returns when Consul has exactly the job's instances, all passing.
func (s *Service) awaitPassing(ctx context.Context) error {
	opts := &consulapi.QueryOptions{WaitTime: waitTime}
	for {
		entries, meta, err := s.consul.Health().Service(s.opts.Name, "", false, opts.WithContext(ctx))
		if err != nil {
			return fmt.Errorf("wait until %d instances of %q pass in Consul: %w", s.opts.Count, s.opts.Name, err)
		}
		passing := 0
		for _, e := range entries {
			if e.Checks.AggregatedStatus() == consulapi.HealthPassing {
				passing++
			}
		}
		if passing == s.opts.Count && len(entries) == s.opts.Count {
			return nil
		}
		opts.WaitIndex = meta.LastIndex
	}
}

// trouble tells the latest events of tasks that do not run, for an error message.
func (s *Service) trouble() string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	allocs, _, err := s.nomad.Jobs().Allocations(s.opts.Name, false, query(ctx))
	if err != nil {
		return ""
	}
	var b strings.Builder
	for _, a := range allocs {
		if a.DesiredStatus != nomadapi.AllocDesiredStatusRun {
			continue
		}
		for task, state := range a.TaskStates {
			if state.State == "running" || len(state.Events) == 0 {
				continue
			}
			last := state.Events[max(0, len(state.Events)-4):]
			for _, e := range last {
				fmt.Fprintf(&b, "\n  %s %s: %s: %s", short(a.ID), task, e.Type, e.DisplayMessage)
			}
		}
	}
	return b.String()
}

// starts counts how often the task was started.
func starts(states map[string]*nomadapi.TaskState) uint64 {
	if task := states[taskName]; task != nil {
		return task.Restarts + 1
	}
	return 0
}

func terminal(clientStatus string) bool {
	switch clientStatus {
	case nomadapi.AllocClientStatusComplete, nomadapi.AllocClientStatusFailed, nomadapi.AllocClientStatusLost:
		return true
	}
	return false
}

// short is the part of an ID that people use.
func short(id string) string { return id[:min(8, len(id))] }
