package scatter_test

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
)

// register makes a root a leaf of others.
func (r *root) register(consul *api.Client, service, shard string) {
	r.t.Helper()
	u, err := url.Parse(r.url)
	must.NoError(r.t, err)
	host, port, err := net.SplitHostPort(u.Host)
	must.NoError(r.t, err)
	n, err := strconv.Atoi(port)
	must.NoError(r.t, err)
	must.NoError(r.t, consul.Agent().ServiceRegister(&api.AgentServiceRegistration{
		ID: service + "-" + shard, Name: service, Address: host, Port: n, Meta: map[string]string{"shard": shard},
	}))
}

// TestTree has three roots above each leaf. The coverage counts leaves, whatever is missing
// and wherever, and a root that is its own leaf does no harm.
func TestTree(t *testing.T) {
	c := clustertest.StartConsul(t, cluster.ConsulConfig{})
	consul := c.Server(0)
	cfg := gather.Config{Timeout: 10 * time.Second}
	top := startRoot(t, consul, "top", "mid", cfg)
	var first *leaf
	var bottom *root
	for i := range 2 {
		mid := startRoot(t, consul, fmt.Sprint("mid", i), fmt.Sprint("low", i), cfg)
		for j := range 2 {
			name := fmt.Sprintf("%d%d", i, j)
			low := startRoot(t, consul, "low"+name, "leaf"+name, cfg)
			for k := range 2 {
				l := startLeaf(t, consul, "leaf"+name, fmt.Sprint(k), fmt.Sprintf("%s%d", name, k))
				if first == nil {
					first = l
				}
			}
			low.shards(2, 2)
			low.register(consul, fmt.Sprint("low", i), fmt.Sprint(j))
			if bottom == nil {
				bottom = low
			}
		}
		mid.shards(2, 2)
		mid.register(consul, "mid", fmt.Sprint(i))
	}
	top.shards(2, 2)
	a := top.get(0)
	must.Eq(t, http.StatusOK, a.status)
	must.Eq(t, 8, a.ok)
	must.Eq(t, 8, a.total)
	must.Len(t, 8, a.leaves)

	// A leaf is gone: it is one of eight, and the roots in between give what they have.
	first.kill()
	a = top.get(0)
	must.Eq(t, http.StatusBadGateway, a.status)
	must.Eq(t, 7, a.ok)
	must.Eq(t, 8, a.total)
	a = top.get(0.8)
	must.Eq(t, http.StatusOK, a.status)
	must.Eq(t, 7, a.ok)
	must.Len(t, 7, a.leaves)

	// A loop: the top is a leaf of what is at the bottom.
	top.register(consul, "leaf00", "loop")
	bottom.shards(3, 3)
	begin := time.Now()
	a = top.get(0.5)
	must.Less(t, patience, time.Since(begin))
	must.Eq(t, http.StatusOK, a.status)
	must.Eq(t, 7, a.ok)
	must.Eq(t, 9, a.total)
}
