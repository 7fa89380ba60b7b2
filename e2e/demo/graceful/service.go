package graceful

import (
	"context"
	"fmt"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"
)

// opTimeout bounds each operation. It is far above what any takes, so that running
// into it means that something is stuck.
const opTimeout = 3 * time.Minute

// Service is a running job of the template.
type Service struct {
	opts    Options
	nomad   *nomadapi.Client
	consul  *consulapi.Client
	release int
}

// Deploy registers the job and returns when its deployment has succeeded and all
// instances pass in Consul. After an error the job may be there; Stop removes it.
func Deploy(ctx context.Context, nomad *nomadapi.Client, consul *consulapi.Client, opts Options) (*Service, error) {
	s := &Service{opts: opts, nomad: nomad, consul: consul}
	return s, s.Update(ctx)
}

// Name is the name of the job and of its service in Consul.
func (s *Service) Name() string { return s.opts.Name }

// Update registers the next release, and returns when all instances have been
// replaced, one after the other, and pass in Consul.
func (s *Service) Update(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	s.release++
	job, err := s.opts.Job(s.release)
	if err != nil {
		return err
	}
	if _, _, err := s.nomad.Jobs().Register(job, (&nomadapi.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("register job %q: %w", s.opts.Name, err)
	}
	if err := s.awaitDeployment(ctx); err != nil {
		return fmt.Errorf("deploy release %d of job %q: %w%s", s.release, s.opts.Name, err, s.trouble())
	}
	return s.awaitPassing(ctx)
}

// Restart restarts all instances, each when the one before passes in Consul again,
// as `nomad job restart` does. It returns the number of restarts.
func (s *Service) Restart(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	allocs, err := s.Running(ctx)
	if err != nil {
		return 0, err
	}
	for i, stub := range allocs {
		if err := s.restartOne(ctx, stub); err != nil {
			return i, fmt.Errorf("restart allocation %s: %w", short(stub.ID), err)
		}
	}
	return len(allocs), nil
}

func (s *Service) restartOne(ctx context.Context, stub *nomadapi.AllocationListStub) error {
	before := starts(stub.TaskStates)
	alloc := &nomadapi.Allocation{ID: stub.ID, NodeID: stub.NodeID}
	// The call returns when the old process has ended.
	if err := s.nomad.Allocations().Restart(alloc, taskName, query(ctx)); err != nil {
		return err
	}
	err := s.awaitAlloc(ctx, stub.ID, "its task runs again", func(a *nomadapi.Allocation) bool {
		task := a.TaskStates[taskName]
		return task != nil && task.State == "running" && starts(a.TaskStates) > before
	})
	if err != nil {
		return err
	}
	return s.awaitPassing(ctx)
}

// Drain drains a node, returns when all instances are elsewhere and pass in Consul,
// and makes the node eligible again in any case.
func (s *Service) Drain(ctx context.Context, nodeID string) (err error) {
	opCtx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	defer func() {
		// Also when ctx has ended: the next one who uses the cluster needs the node.
		cleanCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_, e := s.nomad.Nodes().UpdateDrainOpts(nodeID, &nomadapi.DrainOptions{MarkEligible: true}, (&nomadapi.WriteOptions{}).WithContext(cleanCtx))
		if e != nil && err == nil {
			err = fmt.Errorf("make node %s eligible: %w", short(nodeID), e)
		}
	}()
	_, err = s.nomad.Nodes().UpdateDrainOpts(nodeID, &nomadapi.DrainOptions{
		DrainSpec: &nomadapi.DrainSpec{Deadline: opTimeout, IgnoreSystemJobs: true},
	}, (&nomadapi.WriteOptions{}).WithContext(opCtx))
	if err != nil {
		return fmt.Errorf("drain node %s: %w", short(nodeID), err)
	}
	if err := s.awaitAway(opCtx, nodeID); err != nil {
		return fmt.Errorf("drain node %s: %w%s", short(nodeID), err, s.trouble())
	}
	return s.awaitPassing(opCtx)
}

// Stop stops the job and returns when all of its tasks have ended. With purge the
// job is forgotten, its allocations stay readable until the next garbage collection.
func (s *Service) Stop(ctx context.Context, purge bool) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if _, _, err := s.nomad.Jobs().Deregister(s.opts.Name, purge, (&nomadapi.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("stop job %q: %w", s.opts.Name, err)
	}
	return s.awaitAllocs(ctx, "all tasks have ended", func(allocs []*nomadapi.AllocationListStub) bool {
		for _, a := range allocs {
			if !terminal(a.ClientStatus) {
				return false
			}
		}
		return true
	})
}

// Running lists the allocations whose tasks run and are to go on running.
func (s *Service) Running(ctx context.Context) ([]*nomadapi.AllocationListStub, error) {
	allocs, _, err := s.nomad.Jobs().Allocations(s.opts.Name, false, query(ctx))
	if err != nil {
		return nil, fmt.Errorf("list allocations of job %q: %w", s.opts.Name, err)
	}
	var running []*nomadapi.AllocationListStub
	for _, a := range allocs {
		if a.DesiredStatus == nomadapi.AllocDesiredStatusRun && a.ClientStatus == nomadapi.AllocClientStatusRunning {
			running = append(running, a)
		}
	}
	return running, nil
}
