package scatter_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
)

// Leaves come, go and fail their checks, and the root asks those that there are.
func TestCatalog(t *testing.T) {
	c := clustertest.StartConsul(t, cluster.ConsulConfig{})
	consul := c.Server(0)
	r := startRoot(t, consul, "root", "svc", gather.Config{Timeout: 10 * time.Second})
	must.ErrorContains(t, r.Ready(), `service "svc" has no instance`)
	a := r.get(0)
	must.Eq(t, http.StatusServiceUnavailable, a.status)

	one := startLeaf(t, consul, "svc", "1", "one")
	two := startLeaf(t, consul, "svc", "2", "two")
	r.shards(2, 2)
	must.NoError(t, r.Ready())
	a = r.get(0)
	must.Eq(t, "1/one 2/two", joined(a))
	must.Eq(t, 2, a.total)

	// A replica is no shard more, and stands in when the other one has died.
	startLeaf(t, consul, "svc", "2", "twin")
	r.shards(2, 3)
	two.kill()
	for range 20 {
		a = r.get(0)
		must.Eq(t, http.StatusOK, a.status)
		must.Eq(t, "1/one 2/twin", joined(a))
	}
	two.leave()
	r.shards(2, 2)

	// Whoever fails his check is not asked, as long as there are others of his shard. But the
	// shard is not forgotten: the answer would seem to be whole without it.
	must.NoError(t, consul.Agent().CheckRegister(&api.AgentCheckRegistration{
		ID: "one-check", Name: "one", ServiceID: "one", AgentServiceCheck: api.AgentServiceCheck{TTL: "10m", Status: "critical"},
	}))
	r.until("only one passes its check", func() bool {
		entries, _, err := consul.Health().Service("svc", "", true, nil)
		return err == nil && len(entries) == 1
	})
	a = r.get(0)
	must.Eq(t, 2, a.total)
	must.Eq(t, "1/one 2/twin", joined(a))
	must.NoError(t, consul.Agent().PassTTL("one-check", ""))
	r.shards(2, 2)

	// An empty catalog is not believed: who is there is asked.
	one.leave()
	must.NoError(t, consul.Agent().ServiceDeregister("twin"))
	r.until("the catalog is empty", func() bool {
		entries, _, err := consul.Health().Service("svc", "", true, nil)
		return err == nil && len(entries) == 0
	})
	a = r.get(0)
	must.Eq(t, http.StatusOK, a.status)
	must.NotEq(t, "", joined(a))
}

// A root that knows which shards there have to be takes no answer for whole as long as one
// has not come up.
func TestShards(t *testing.T) {
	c := clustertest.StartConsul(t, cluster.ConsulConfig{})
	consul := c.Server(0)
	r := startRoot(t, consul, "root", "svc", gather.Config{Timeout: 10 * time.Second, Shards: []string{"0", "1"}})
	must.Eq(t, http.StatusServiceUnavailable, r.get(0).status)
	startLeaf(t, consul, "svc", "0", "zero")
	r.until("a leaf is known", func() bool { return r.Ready() == nil })
	a := r.get(0)
	must.Eq(t, http.StatusBadGateway, a.status)
	must.Eq(t, 2, a.total)
	must.StrContains(t, a.missing, "1;reason=absent")
	a = r.get(0.5)
	must.Eq(t, http.StatusOK, a.status)
	must.Eq(t, "0/zero", joined(a))
	must.StrContains(t, a.missing, "1;reason=absent")
	startLeaf(t, consul, "svc", "1", "one")
	r.shards(2, 2)
	a = r.get(0)
	must.Eq(t, http.StatusOK, a.status)
	must.Eq(t, "0/zero 1/one", joined(a))
}

// Without Consul the root goes on with the leaves that it knows, for as long as it takes,
// and hears of changes when Consul is back.
func TestConsulDown(t *testing.T) {
	c := clustertest.StartConsul(t, cluster.ConsulConfig{})
	consul := c.Server(0)
	for i := range 4 {
		startLeaf(t, consul, "svc", fmt.Sprint(i), fmt.Sprint("leaf", i))
	}
	r := startRoot(t, consul, "root", "svc", gather.Config{Timeout: 10 * time.Second})
	r.shards(4, 4)
	must.NoError(t, c.KillServer(0))
	r.until("the root says that consul is away", func() bool { return r.Status()[0].Consul != "" })
	for range 50 {
		a := r.get(0)
		must.Eq(t, http.StatusOK, a.status)
		must.Eq(t, 4, a.ok)
	}
	must.NoError(t, r.Ready())
	must.NoError(t, c.StartServer(r.ctx, 0))
	startLeaf(t, consul, "svc", "4", "leaf4")
	r.shards(5, 5)
	must.Eq(t, "", r.Status()[0].Consul)
	must.StrContains(t, strings.Join(r.get(0).leaves, " "), "4/leaf4")
}
