package cluster_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"go.uber.org/goleak"
)

// ownerEnv makes the test program the owner of a cluster that is killed; see
// TestCluster_OwnerKilled.
const ownerEnv = "NOMAD_PATTERNS_TEST_OWNER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerEnv); dir != "" {
		os.Exit(ownUntilKilled(dir))
	}
	goleak.VerifyTestMain(m)
}

// ownUntilKilled starts a cluster with a job, says so, and waits to be killed.
func ownUntilKilled(dir string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Config{Dir: dir, Progress: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := runSleep(ctx, c, 1); err != nil {
		fmt.Fprintln(os.Stderr, err, c.Stop())
		return 1
	}
	if c.HasDriver("docker") {
		err := cluster.Require(ctx, os.Stderr, cluster.CNIPlugins(), cluster.Iptables())
		if err == nil {
			err = runPause(ctx, c)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err, c.Stop())
			return 1
		}
	}
	fmt.Println(c.ID())
	<-ctx.Done()
	fmt.Fprintln(os.Stderr, "nobody killed the owner", c.Stop())
	return 1
}
