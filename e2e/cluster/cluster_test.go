package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
	"github.com/shoenig/test/must"
)

// sleepJob is a service job of raw_exec with one service in Consul, on as many
// clients as it has allocations.
const sleepJob = `
job "sleep" {
  type = "service"
  group "sleep" {
    count = %d
    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }
    network {
      port "http" {}
    }
    service {
      name     = "sleep"
      port     = "http"
      provider = "consul"
    }
    task "sleep" {
      driver = "raw_exec"
      config {
        command = "sleep"
        args    = ["3600"]
      }
      resources {
        cpu    = 20
        memory = 20
      }
    }
  }
}`

// runSleep registers the job and waits until all its allocations run and are
// known to Consul.
func runSleep(ctx context.Context, c *cluster.Cluster, count int) error {
	job, err := c.Nomad().Jobs().ParseHCL(fmt.Sprintf(sleepJob, count), false)
	if err != nil {
		return fmt.Errorf("parse job: %w", err)
	}
	if _, _, err := c.Nomad().Jobs().Register(job, (&nomadapi.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("register job: %w", err)
	}
	return waitSleep(ctx, c, count)
}

// pauseJob is a container in a network namespace of its own, both made of the
// infra image, so that there are containers, mounts and rules to take away.
const pauseJob = `
job "pause" {
  type = "service"
  group "pause" {
    network {
      mode = "bridge"
      port "http" {
        to = 8080
      }
    }
    task "pause" {
      driver = "docker"
      config {
        image = "nomad-patterns/pause:1"
      }
      resources {
        cpu    = 20
        memory = 20
      }
    }
  }
}`

// runPause registers the job and waits until it runs.
func runPause(ctx context.Context, c *cluster.Cluster) error {
	job, err := c.Nomad().Jobs().ParseHCL(pauseJob, false)
	if err != nil {
		return fmt.Errorf("parse job: %w", err)
	}
	if _, _, err := c.Nomad().Jobs().Register(job, (&nomadapi.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("register job: %w", err)
	}
	return waitRunning(ctx, c, "pause", 1)
}

// waitRunning waits until so many allocations of a job run.
func waitRunning(ctx context.Context, c *cluster.Cluster, job string, count int) error {
	q := &nomadapi.QueryOptions{WaitTime: 5 * time.Second}
	for {
		allocs, meta, err := c.Nomad().Jobs().Allocations(job, false, q.WithContext(ctx))
		if err != nil {
			return fmt.Errorf("wait for allocations: %w", err)
		}
		running := 0
		for _, a := range allocs {
			if a.ClientStatus == nomadapi.AllocClientStatusRunning {
				running++
			}
		}
		if running == count {
			return nil
		}
		q.WaitIndex = meta.LastIndex
	}
}

// waitSleep waits until the job runs so often and Consul knows it.
func waitSleep(ctx context.Context, c *cluster.Cluster, count int) error {
	if err := waitRunning(ctx, c, "sleep", count); err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		list, _, err := c.Consul().Catalog().Service("sleep", "", (&consulapi.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return fmt.Errorf("look up service: %w", err)
		}
		if len(list) == count {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("consul knows %d of %d", len(list), count), ctx.Err())
		case <-tick.C:
		}
	}
}

func TestCluster_KillClientAndStop(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := clustertest.Start(t, cluster.Config{Clients: 2})

	must.Len(t, 2, c.Nodes())
	must.NotEq(t, c.Nodes()[0].ID, c.Nodes()[1].ID)
	must.True(t, c.HasDriver("raw_exec"))
	must.NoError(t, runSleep(ctx, c, 2))

	before, _, err := c.Nomad().Nodes().Allocations(c.Nodes()[0].ID, nil)
	must.NoError(t, err)
	must.Len(t, 1, before)

	pid := c.ClientPID(0)
	must.NoError(t, c.KillClient(0))
	must.Eq(t, 0, c.ClientPID(0))
	must.NoError(t, c.StartClient(ctx, 0))
	must.NotEq(t, pid, c.ClientPID(0))

	// The task went on: the new agent found the same allocation running.
	must.NoError(t, waitSleep(ctx, c, 2))
	after, _, err := c.Nomad().Nodes().Allocations(c.Nodes()[0].ID, nil)
	must.NoError(t, err)
	must.Len(t, 1, after)
	must.Eq(t, before[0].ID, after[0].ID)
	must.Eq(t, nomadapi.AllocClientStatusRunning, after[0].ClientStatus)

	out, err := c.CLI(ctx, "node", "status")
	must.NoError(t, err)
	must.StrContains(t, out, "client1")

	must.NoError(t, c.Stop())
	left, err := c.Leftovers(context.Background())
	must.NoError(t, err)
	must.SliceEmpty(t, left)
	must.FileNotExists(t, c.LogDir())
}
