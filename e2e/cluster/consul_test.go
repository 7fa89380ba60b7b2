package cluster_test

import (
	"context"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
	"github.com/shoenig/test/must"
)

// putKV and getKV use the API of one agent.
func putKV(t *testing.T, ctx context.Context, c *consulapi.Client, value string) {
	t.Helper()
	_, err := c.KV().Put(&consulapi.KVPair{Key: "test", Value: []byte(value)}, (&consulapi.WriteOptions{}).WithContext(ctx))
	must.NoError(t, err)
}

func getKV(t *testing.T, ctx context.Context, c *consulapi.Client) string {
	t.Helper()
	kv, _, err := c.KV().Get("test", (&consulapi.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	must.NoError(t, err)
	must.NotNil(t, kv)
	return string(kv.Value)
}

func TestConsul_Faults(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := clustertest.StartConsul(t, cluster.ConsulConfig{Servers: 3, Clients: 1})

	// The leader dies: another one is found, and the client agent finds it.
	first, err := c.Leader(ctx)
	must.NoError(t, err)
	putKV(t, ctx, c.Client(0), "a")
	must.NoError(t, c.KillServer(first))
	must.Eq(t, 0, c.ServerPID(first))
	must.ErrorContains(t, c.PauseServer(first), "not running")
	second, err := c.Leader(ctx)
	must.NoError(t, err)
	must.NotEq(t, first, second)
	must.Eq(t, "a", getKV(t, ctx, c.Server(second)))
	must.NoError(t, c.StartServer(ctx, first))
	must.ErrorContains(t, c.StartServer(ctx, first), "runs already")

	// A paused agent does not answer; resumed, it does.
	must.NoError(t, c.PauseClient(0))
	short, cancelShort := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancelShort()
	_, _, err = c.Client(0).KV().Get("test", (&consulapi.QueryOptions{}).WithContext(short))
	must.ErrorIs(t, err, context.DeadlineExceeded)
	must.NoError(t, c.ResumeClient(0))
	must.Eq(t, "a", getKV(t, ctx, c.Client(0)))

	// A snapshot brings the old value back.
	snapshot, err := c.Snapshot(ctx)
	must.NoError(t, err)
	putKV(t, ctx, c.Client(0), "b")
	must.NoError(t, c.Restore(ctx, snapshot))
	must.Eq(t, "a", getKV(t, ctx, c.Client(0)))

	// A client agent forgets its services, but not who it is.
	must.NoError(t, c.Client(0).Agent().ServiceRegister(&consulapi.AgentServiceRegistration{Name: "web"}))
	node, err := c.Client(0).Agent().Self()
	must.NoError(t, err)
	must.ErrorContains(t, c.ForgetClient(0), "it runs")
	must.NoError(t, c.KillClient(0))
	must.NoError(t, c.ForgetClient(0))
	must.NoError(t, c.StartClient(ctx, 0))
	services, err := c.Client(0).Agent().Services()
	must.NoError(t, err)
	must.MapEmpty(t, services)
	again, err := c.Client(0).Agent().Self()
	must.NoError(t, err)
	must.Eq(t, node["Config"]["NodeID"], again["Config"]["NodeID"])

	out, err := c.CLI(ctx, "members")
	must.NoError(t, err)
	must.StrContains(t, out, c.ClientNode(0))

	// Even what is stopped with SIGSTOP goes.
	must.NoError(t, c.PauseServer(0))
	must.NoError(t, c.Stop())
	left, err := c.Leftovers(context.Background())
	must.NoError(t, err)
	must.SliceEmpty(t, left)
	must.DirNotExists(t, c.Dir())
}

func TestConsul_ACL(t *testing.T) {
	c := clustertest.StartConsul(t, cluster.ConsulConfig{
		Clients: 1, ACL: true, ExtraClientConfig: `{"datacenter": "dc1", "node_meta": {"extra": "yes"}}`,
	})
	putKV(t, t.Context(), c.Client(0), "a")

	anonymous, err := consulapi.NewClient(&consulapi.Config{Address: c.ClientAddr(0)})
	must.NoError(t, err)
	_, err = anonymous.KV().Put(&consulapi.KVPair{Key: "test"}, nil)
	must.ErrorContains(t, err, "Permission denied")

	self, err := c.Client(0).Agent().Self()
	must.NoError(t, err)
	must.Eq(t, any("yes"), self["Meta"]["extra"])
}

func TestConsul_BadConfig(t *testing.T) {
	cases := map[string]struct {
		cfg cluster.ConsulConfig
		err string
	}{
		"servers":    {cluster.ConsulConfig{Servers: 8}, "servers: 8"},
		"clients":    {cluster.ConsulConfig{Clients: -1}, "clients: -1"},
		"multiplier": {cluster.ConsulConfig{RaftMultiplier: 11}, "raft multiplier: 11"},
		"extra":      {cluster.ConsulConfig{ExtraConfig: `{"no_such_key": 1}`}, "no_such_key"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := cluster.StartConsul(t.Context(), tc.cfg)
			must.ErrorContains(t, err, tc.err)
		})
	}
}
