package cluster_test

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
	"github.com/shoenig/test/must"
)

// The plugin is installed under the name of each driver that works here, each
// with a process of its own, which is found before and after a crash of the
// client, and which Nomad starts again when it is killed.
func TestCluster_Plugin(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	binary, err := cluster.BuildPlugin(ctx, os.Stderr)
	must.NoError(t, err)
	c := clustertest.Start(t, cluster.Config{PluginBinary: binary})

	inner := []string{}
	for _, d := range []string{"docker", "exec", "raw_exec"} {
		must.Eq(t, c.HasDriver(d), c.HasDriver("lifecycle-"+d))
		if c.HasDriver(d) {
			inner = append(inner, d)
		}
	}
	must.SliceContains(t, inner, "raw_exec")
	for _, d := range inner {
		pids, err := c.PluginPIDs(0, d)
		must.NoError(t, err)
		must.SliceNotEmpty(t, pids, must.Sprint(d))
	}

	before, err := c.PluginPIDs(0, "lifecycle-raw_exec")
	must.NoError(t, err)
	must.NoError(t, c.KillClient(0))
	must.NoError(t, c.StartClient(ctx, 0))
	pids, err := c.PluginPIDs(0, "raw_exec")
	must.NoError(t, err)
	must.SliceNotEmpty(t, pids)
	t.Logf("plugin processes before and after the crash of the client: %v, %v", before, pids)

	must.NoError(t, syscall.Kill(pids[0], syscall.SIGKILL))
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		again, err := c.PluginPIDs(0, "raw_exec")
		must.NoError(t, err)
		if len(again) > 0 && again[0] != pids[0] {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("nomad has not started the plugin again: %v", again)
		case <-tick.C:
		}
	}
}
