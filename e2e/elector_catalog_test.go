package e2e

import (
	"context"
	"slices"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/elector/catalog"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
)

// tags waits until a Consul agent has a service with exactly these tags; none: until it
// has no such service.
func tags(t *testing.T, agent *consulapi.Client, id string, want ...string) {
	t.Helper()
	await(t, "the agent has the service "+id, func() bool {
		services, err := agent.Agent().Services()
		if err != nil {
			return false // it is down
		}
		s := services[id]
		if len(want) == 0 {
			return s == nil
		}
		return s != nil && slices.Equal(s.Tags, want)
	})
}

// Services follow what is wanted, through an agent that is down or has lost its data.
func TestCatalog(t *testing.T) {
	consul := clustertest.StartConsul(t, cluster.ConsulConfig{Clients: 1})
	agent := consul.Client(0)
	must.NoError(t, agent.Agent().ServiceRegister(&consulapi.AgentServiceRegistration{
		ID: "own", Name: "own", Check: &consulapi.AgentServiceCheck{CheckID: "own", TTL: "1h", Status: consulapi.HealthPassing},
	}))
	c := catalog.New(catalog.Config{Consul: agent, ID: "me", Alias: "own"})
	web := catalog.Service{Name: "web", Port: 80, Tags: []string{"v1"}, LeaderTag: "primary"}

	c.Set("a", web, false)
	tags(t, agent, "web-a-me", "v1", "candidate")
	must.NoError(t, c.SetWait(t.Context(), "a", web, true))
	tags(t, agent, "web-a-me", "v1", "primary")
	c.Set("b", catalog.Service{Name: "db"}, true)
	tags(t, agent, "db-b-me", "leader")

	// The health is that of the elector's own service.
	health := func(want string) {
		t.Helper()
		await(t, "the service is "+want, func() bool {
			status, _, err := agent.Agent().AgentHealthServiceByID("web-a-me")
			must.NoError(t, err)
			return status == want
		})
	}
	health(consulapi.HealthPassing)
	must.NoError(t, agent.Agent().UpdateTTL("own", "", consulapi.HealthCritical))
	health(consulapi.HealthCritical)
	must.NoError(t, agent.Agent().UpdateTTL("own", "", consulapi.HealthPassing))
	health(consulapi.HealthPassing)

	c.Remove("b")
	tags(t, agent, "db-b-me")
	c.Remove("never there")

	// Down, nobody waits for longer than he wants; up again, the latest counts.
	must.NoError(t, consul.KillClient(0))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	must.ErrorIs(t, c.SetWait(ctx, "a", web, false), context.DeadlineExceeded)
	c.Set("a", web, true)
	c.Set("a", web, false)
	c.Set("b", catalog.Service{Name: "db"}, false)
	c.Set("c", catalog.Service{Name: "db"}, false)
	c.Remove("c")
	await(t, "it has been tried", func() bool { return c.Failures() > 0 })
	must.NoError(t, consul.ForgetClient(0))
	must.NoError(t, consul.StartClient(t.Context(), 0))
	tags(t, agent, "web-a-me", "v1", "candidate")
	tags(t, agent, "db-b-me", "candidate")
	tags(t, agent, "db-c-me")

	// Lost while nothing changes, found missing at the next look.
	must.NoError(t, consul.KillClient(0))
	must.NoError(t, consul.ForgetClient(0))
	must.NoError(t, consul.StartClient(t.Context(), 0))
	tags(t, agent, "web-a-me", "v1", "candidate")

	must.NoError(t, c.Close(t.Context()))
	tags(t, agent, "web-a-me")
	tags(t, agent, "db-b-me")

	// What cannot be reached any more is reported.
	c = catalog.New(catalog.Config{Consul: agent, ID: "me", Alias: "own"})
	must.NoError(t, c.SetWait(t.Context(), "a", web, false))
	must.NoError(t, consul.KillClient(0))
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	must.ErrorContains(t, c.Close(ctx), `deregister the service of "a"`)
	must.ErrorIs(t, c.SetWait(t.Context(), "a", web, false), catalog.ErrClosed)
}
