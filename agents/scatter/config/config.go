package config

import (
	"errors"
	"flag"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/server"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// DefaultListen is the address of the HTTP API.
const DefaultListen = "127.0.0.1:4060"

// Limits and default of drain_timeout.
const (
	MinDrainTimeout     = time.Second
	MaxDrainTimeout     = 10 * time.Minute
	defaultDrainTimeout = 10 * time.Second
)

// Agent is the configuration of the agent. It is checked.
type Agent struct {
	// ID is the name of this root, unique among all that a request may pass.
	ID string
	// Routes are in the order of the files; the one of the flags is the last. At least one.
	// Their mergers start nothing; those that are an io.Closer have to be closed once they
	// have been used.
	Routes       []server.Route
	Consul       *api.Config
	Listen       agent.Listen
	DrainTimeout time.Duration
	Log          agent.LogConfig
}

// AgentSource declares the flags of the agent. The function that it returns is called
// after they have been parsed; its error is an *agent.ConfigError.
func AgentSource(fs *flag.FlagSet) func() (*Agent, error) {
	f := newFile()
	var paths agent.Value[[]string]
	paths.Flag(fs, "config", "HCL or JSON `file`, or directory of such; may be given several times")
	f.flags(fs)
	return func() (*Agent, error) {
		var p agent.Problems
		f.env(&p)
		p.Add(agent.Load(paths.V, f))
		if err := p.Err(); err != nil {
			return nil, err // to check what could not be read would only add noise
		}
		a := f.agent(&p)
		if err := p.Err(); err != nil {
			return nil, err
		}
		return a, nil
	}
}

// agent checks everything.
func (f *file) agent(p *agent.Problems) *Agent {
	if !f.ID.IsSet() {
		id, err := agent.DefaultID()
		if err != nil {
			p.Addf("", "id", "%v", err)
		}
		f.ID.Default(id)
	}
	f.DrainTimeout.Default(defaultDrainTimeout)
	f.Listen.Address.Default(DefaultListen)

	checkName(p, f.ID.From, "id", f.ID.V)
	agent.Between(p, "drain_timeout", f.DrainTimeout, MinDrainTimeout, MaxDrainTimeout)
	f.Listen.Check(p)
	level, err := agent.ParseLevel(f.LogLevel.V)
	if err != nil {
		p.Addf(f.LogLevel.From, "log_level", "%v", err)
	}
	return &Agent{
		ID: f.ID.V, Consul: f.Consul.Client(p), Listen: *f.Listen, DrainTimeout: f.DrainTimeout.V,
		Log:    agent.LogConfig{Level: level, JSON: f.LogJSON.V},
		Routes: f.routes(p),
	}
}

// checkName is for the names of roots and routes. Those of roots are in a header, with
// commas between them.
func checkName(p *agent.Problems, from, field, name string) {
	var bad *election.FieldError
	if err := election.CheckID(name); errors.As(err, &bad) {
		p.Addf(from, field, "%s", bad.Problem)
	}
}
