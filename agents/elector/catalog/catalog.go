package catalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
)

// Tags of a service, unless its configuration says otherwise.
const (
	DefaultLeaderTag = "leader"
	CandidateTag     = "candidate"
)

// Service is the service of a candidate.
type Service struct {
	Name      string   // in Consul
	Address   string   // empty: that of the agent's node
	Port      int      // 0: none
	Tags      []string // besides the one that tells the role
	LeaderTag string   // default DefaultLeaderTag
}

// Config says where services are registered.
type Config struct {
	// Consul is the client of the local agent.
	Consul *api.Client
	// ID is the candidate's name. It makes the services' IDs unique.
	ID string
	// Alias is the ID of the service whose health the services share: the elector's
	// own one. Empty: they have no check.
	Alias string
	// Logger is told about failures. Default: none.
	Logger hclog.Logger
}

// ErrClosed says that the catalog is closed.
var ErrClosed = agent.ErrServicesClosed

// Catalog keeps the services of a candidate registered, one for each election.
type Catalog struct {
	cfg      Config
	services *agent.Services
}

// New starts a catalog. Close ends it.
func New(cfg Config) *Catalog {
	return &Catalog{cfg, agent.NewServices(agent.ServicesConfig{
		Consul: cfg.Consul, Filter: fmt.Sprintf("Meta.candidate == %q", cfg.ID), Logger: cfg.Logger,
	})}
}

// Set says how the service of an election should look from now on. It does not wait.
func (c *Catalog) Set(election string, s Service, leading bool) {
	c.services.Set(election, c.registration(election, s, leading))
}

// SetWait is Set, and waits until the local agent has it, or something later. The
// error is that of ctx, or ErrClosed.
func (c *Catalog) SetWait(ctx context.Context, election string, s Service, leading bool) error {
	return c.services.SetWait(ctx, election, c.registration(election, s, leading))
}

// Remove deregisters the service of an election. It does not wait.
func (c *Catalog) Remove(election string) { c.services.Remove(election) }

// Failures is the number of calls of the local agent that failed.
func (c *Catalog) Failures() uint64 { return c.services.Failures() }

// Close deregisters all services, until ctx ends, and ends the catalog. It is called
// once. The error says what is left, which Consul drops after some minutes.
func (c *Catalog) Close(ctx context.Context) error { return c.services.Close(ctx) }

// registration is what the agent should have.
func (c *Catalog) registration(election string, s Service, leading bool) *api.AgentServiceRegistration {
	role := CandidateTag
	if leading {
		role = s.LeaderTag
		if role == "" {
			role = DefaultLeaderTag
		}
	}
	id := s.Name + "-" + election + "-" + c.cfg.ID
	reg := &api.AgentServiceRegistration{
		ID: id, Name: s.Name, Address: s.Address, Port: s.Port,
		Tags: append(slices.Clone(s.Tags), role),
		Meta: map[string]string{"election": election, "candidate": c.cfg.ID},
	}
	if c.cfg.Alias != "" {
		reg.Check = &api.AgentServiceCheck{
			CheckID: "elector:" + id, Name: "elector of " + c.cfg.ID + " is alive",
			AliasService: c.cfg.Alias, DeregisterCriticalServiceAfter: agent.ReapAfter,
		}
	}
	return reg
}
