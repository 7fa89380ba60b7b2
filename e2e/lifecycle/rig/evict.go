package rig

import (
	"context"
	"errors"
	"fmt"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
)

// Drain empties the node, waits until none of the allocations runs there, and
// opens it again.
func (r *Rig) Drain(ctx context.Context, nodeID string) error {
	_, err := r.Nomad().Nodes().UpdateDrain(nodeID, &nomadapi.DrainSpec{Deadline: time.Minute}, false, write(ctx))
	if err != nil {
		return err
	}
	return errors.Join(r.empty(ctx, nodeID), r.Undrain(nodeID))
}

// Undrain opens a node again.
func (r *Rig) Undrain(nodeID string) error {
	_, err := r.Nomad().Nodes().UpdateDrain(nodeID, nil, true, nil)
	return err
}

// empty waits until all allocations of the node have ended.
func (r *Rig) empty(ctx context.Context, nodeID string) error {
	return cluster.Watch(ctx, "node "+nodeID+" is empty", func(q *nomadapi.QueryOptions) (bool, *nomadapi.QueryMeta, error) {
		as, meta, err := r.Nomad().Nodes().Allocations(nodeID, q)
		for _, a := range as {
			if !a.ClientTerminalStatus() {
				return false, meta, err
			}
		}
		return err == nil, meta, err
	})
}

// Preempt runs a job of a high priority on the node that leaves no room for
// anything else. end takes it away again.
func (r *Rig) Preempt(ctx context.Context, nodeID, name string) (end func(context.Context) error, err error) {
	node := r.Nodes()[r.Client(nodeID)].Name
	text := fmt.Sprintf(`
job %q {
  type     = "service"
  priority = 90
  constraint {
    attribute = "${node.unique.name}"
    value     = %q
  }
  group "g" {
    restart {
      attempts = 10
      delay    = "1s"
      mode     = "delay"
    }
    task "big" {
      driver = "raw_exec"
      config {
        command = "/bin/sleep"
        args    = ["3600"]
      }
      resources {
        cpu    = 20
        memory = %d
      }
    }
  }
}`, name, node, MemoryMB-10)
	if err := r.RegisterHCL(ctx, text); err != nil {
		return nil, err
	}
	if _, err := r.Running(ctx, name, 1); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		_, _, err := r.Nomad().Jobs().Deregister(name, true, write(ctx))
		return err
	}, nil
}

// Scale sets the count of the job's group.
func (r *Rig) Scale(ctx context.Context, job string, count int) error {
	_, _, err := r.Nomad().Jobs().Scale(job, "g", &count, "", false, nil, write(ctx))
	return err
}

// StopAlloc stops an allocation, which is replaced.
func (r *Rig) StopAlloc(ctx context.Context, id string) error {
	a, err := r.Alloc(ctx, id)
	if err != nil {
		return err
	}
	_, err = r.Nomad().Allocations().Stop(a, query(ctx))
	return err
}

// StopJob stops a job and keeps it known.
func (r *Rig) StopJob(ctx context.Context, job string) error {
	_, _, err := r.Nomad().Jobs().Deregister(job, false, write(ctx))
	return err
}

// Restart restarts a task, "" for all that run, and returns when it has begun to.
func (r *Rig) Restart(ctx context.Context, id, task string) error {
	a, err := r.Alloc(ctx, id)
	if err != nil {
		return err
	}
	return r.Nomad().Allocations().Restart(a, task, query(ctx))
}

// Restarted waits until the task runs again, restarts being how often it was
// restarted before.
func (r *Rig) Restarted(ctx context.Context, id, task string, restarts uint64) error {
	return cluster.Watch(ctx, "allocation "+id+" has restarted", func(q *nomadapi.QueryOptions) (bool, *nomadapi.QueryMeta, error) {
		a, meta, err := r.Nomad().Allocations().Info(id, q)
		if err != nil {
			return false, meta, err
		}
		s := a.TaskStates[task]
		return s != nil && s.State == "running" && s.Restarts > restarts, meta, nil
	})
}

// Lose kills the agent of the node and waits until the servers have given it up.
func (r *Rig) Lose(ctx context.Context, nodeID string) error {
	if err := r.KillClient(r.Client(nodeID)); err != nil {
		return err
	}
	return cluster.Watch(ctx, "node "+nodeID+" is down", func(q *nomadapi.QueryOptions) (bool, *nomadapi.QueryMeta, error) {
		n, meta, err := r.Nomad().Nodes().Info(nodeID, q)
		return err == nil && n.Status == nomadapi.NodeStatusDown, meta, err
	})
}

// Find starts the agent of the node again.
func (r *Rig) Find(ctx context.Context, nodeID string) error {
	return r.StartClient(ctx, r.Client(nodeID))
}
