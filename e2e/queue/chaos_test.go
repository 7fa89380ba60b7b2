package queue_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
	"github.com/nomad-patterns/nomad-patterns/e2e/queue/rig"
	"github.com/nomad-patterns/nomad-patterns/queue"
	"github.com/shoenig/test/must"
)

// Ten thousand files go through a queue while brokers, workers, Consul's leader and
// their connections are killed, frozen and cut at random. QUEUE_CHAOS=n in the
// environment asks for n faults and 500 files for each; "make bench-queue" does many.
func TestChaos(t *testing.T) {
	faults, items := 20, 10_000
	if text := os.Getenv("QUEUE_CHAOS"); text != "" {
		var err error
		faults, err = strconv.Atoi(text)
		must.NoError(t, err)
		items = 500 * faults
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	consul := clustertest.StartConsul(t, cluster.ConsulConfig{Servers: 3, Clients: 2})
	r, err := rig.Chaos(t.Context(), rig.ChaosConfig{
		Consul: consul, BrokerBinary: brokerBinary, WorkerBinary: workerBinary, Dir: t.TempDir(),
		Shards: 2, Items: items, Faults: faults, Seed: seed, Progress: testWriter{t},
	})
	must.NoError(t, err)
	t.Logf("%d items, faults %v, %d processes of workers, %d attempts, verdicts %v", r.Items, r.Faults, r.Processes, r.Attempts, r.Verdicts)
	for _, problem := range r.Problems {
		t.Error(problem)
	}
	must.Positive(t, r.Verdicts[queue.Accepted])
	must.Positive(t, r.Faults["broker-kill"])
	must.Positive(t, r.Faults["worker-kill"])
	must.Positive(t, r.Faults["consul-leader-kill"])
}
