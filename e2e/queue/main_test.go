// Package queue_test runs package queue against a real Consul whose data is on disk, in
// this process and in processes that are killed, and checks that nothing is lost and
// nothing done twice.
package queue_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
	"github.com/nomad-patterns/nomad-patterns/e2e/queue/rig"
	"github.com/nomad-patterns/nomad-patterns/queue"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

// The programs, built once.
var brokerBinary, workerBinary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "queue")
	if err == nil {
		brokerBinary, err = rig.Build(context.Background(), dir, "agents/queue")
	}
	if err == nil {
		workerBinary, err = rig.Build(context.Background(), dir, "e2e/queue/worker")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// patience bounds one test.
const patience = time.Minute

// scene is a Consul with keys of the test's own, and a queue "q" of one shard.
type scene struct {
	t      *testing.T
	ctx    context.Context
	consul *cluster.Consul
	*queue.Broker
}

// newScene makes a scene with a broker that leads the queue.
func newScene(t *testing.T, c *cluster.Consul, cfg queue.Config) *scene {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s := &scene{t: t, ctx: ctx, consul: c}
	s.Broker = s.broker("a")
	_, err := s.Create(ctx, "q", cfg)
	must.NoError(t, err)
	s.leads(s.Broker)
	return s
}

// oneServer starts a Consul of one server.
func oneServer(t *testing.T) *cluster.Consul {
	t.Helper()
	return clustertest.StartConsul(t, cluster.ConsulConfig{})
}

// prefix of the keys.
func (s *scene) prefix() string {
	return "test-" + strings.NewReplacer("/", "-", " ", "-").Replace(s.t.Name())
}

// key of shard 0, in full.
func (s *scene) key(rest string) string { return s.prefix() + "/data/q/0/" + rest }

// broker starts a broker, which ends with the test.
func (s *scene) broker(id string) *queue.Broker {
	s.t.Helper()
	cfg := api.DefaultConfig()
	cfg.Address, cfg.Token = s.consul.ServerAddr(0), s.consul.Token()
	b, err := queue.NewBroker(queue.BrokerConfig{
		Consul: cfg, Prefix: s.prefix(), ID: id, Address: "http://" + id, Service: "queue-" + strings.ToLower(s.prefix()),
	})
	must.NoError(s.t, err)
	s.t.Cleanup(func() { s.close(b) })
	return b
}

// close ends a broker. It may be done twice.
func (s *scene) close(b *queue.Broker) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 10*time.Second)
	defer cancel()
	must.NoError(s.t, b.Close(ctx))
}

// leads waits until a broker leads the queue, and returns its status.
func (s *scene) leads(b *queue.Broker) queue.Status {
	s.t.Helper()
	var st queue.Status
	s.until(func() (err error) {
		st, err = b.Status(s.ctx, "q", 0)
		return err
	})
	return st
}

// until repeats try until it succeeds.
func (s *scene) until(try func() error) {
	s.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-s.ctx.Done():
			s.t.Fatalf("not within %s: %v", patience, err)
		case <-tick.C:
		}
	}
}

// status is that of the queue.
func (s *scene) status() queue.Status {
	s.t.Helper()
	st, err := s.Status(s.ctx, "q", 0)
	must.NoError(s.t, err)
	return st
}

// put enqueues items with these inputs.
func (s *scene) put(inputs ...string) []queue.ID {
	s.t.Helper()
	items := make([]queue.Item, len(inputs))
	for i, in := range inputs {
		items[i].Input = in
	}
	return s.putItems(items...)
}

func (s *scene) putItems(items ...queue.Item) []queue.ID {
	s.t.Helper()
	out, err := s.Enqueue(s.ctx, "q", 0, items)
	must.NoError(s.t, err)
	must.Len(s.t, len(items), out)
	ids := make([]queue.ID, len(out))
	for i, e := range out {
		ids[i] = e.ID
	}
	return ids
}

// claimFor asks for items, and waits for one for as long as the test may take.
func (s *scene) claimFor(worker, stage string, most int) queue.ClaimResponse {
	s.t.Helper()
	got, err := s.Claim(s.ctx, "q", queue.ClaimRequest{Worker: worker, Stage: stage, Max: most, Wait: queue.Duration(patience)})
	must.NoError(s.t, err)
	return got
}

// claimOne claims one item of the first stage.
func (s *scene) claimOne(worker string) queue.Claimed {
	s.t.Helper()
	got := s.claimFor(worker, "", 1)
	must.Len(s.t, 1, got.Items)
	return got.Items[0]
}

// nothing checks that there is nothing to claim now.
func (s *scene) nothing() {
	s.t.Helper()
	got, err := s.Claim(s.ctx, "q", queue.ClaimRequest{Worker: "nobody", Max: 10})
	must.NoError(s.t, err)
	must.SliceEmpty(s.t, got.Items)
}

// say ends an attempt and returns the verdict.
func (s *scene) say(c queue.Claimed, a queue.Ack) queue.Verdict {
	s.t.Helper()
	a.ID, a.Claim = c.ID, c.Claim
	out, err := s.Ack(s.ctx, "q", 0, []queue.Ack{a})
	must.NoError(s.t, err)
	must.Len(s.t, 1, out)
	return out[0].Verdict
}

// accept ends an attempt, which has to be accepted.
func (s *scene) accept(c queue.Claimed, a queue.Ack) {
	s.t.Helper()
	must.Eq(s.t, queue.Accepted, s.say(c, a))
}

// item is what was enqueued.
func (s *scene) item(c queue.Claimed) queue.Item {
	s.t.Helper()
	var it queue.Item
	must.NoError(s.t, json.Unmarshal(c.Item, &it))
	return it
}

// inputs are those of claimed items, in their order.
func (s *scene) inputs(list []queue.Claimed) []string {
	s.t.Helper()
	var out []string
	for _, c := range list {
		out = append(out, s.item(c).Input)
	}
	return out
}

// testWriter shows progress in the log of the test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
