package config

import (
	"crypto/tls"
	"errors"
	"flag"
	"net"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// DefaultListen is the address of the HTTP API.
const DefaultListen = "127.0.0.1:4050"

// Limits and default of drain_timeout.
const (
	MinDrainTimeout     = time.Second
	MaxDrainTimeout     = 10 * time.Minute
	defaultDrainTimeout = 10 * time.Second
)

// Agent is the configuration of the agent. It is checked.
type Agent struct {
	Broker       queue.BrokerConfig // without a logger; without an address if none is given
	Queues       []Queue            // in the order of the files
	Listen       agent.Listen
	PeerTLS      *tls.Config
	PeerToken    string
	DrainTimeout time.Duration
	Log          agent.LogConfig
}

// Queue is a queue that is made at the start, if it is not there.
type Queue struct {
	Name   string
	Config queue.Config // with defaults
}

// Advertised is the address that other brokers and workers are told: the one of the
// configuration, or else where the API really listens.
func (a *Agent) Advertised(listening net.Addr) string {
	switch {
	case a.Broker.Address != "":
		return a.Broker.Address
	case strings.HasPrefix(a.Listen.Address.V, "unix://"):
		return a.Listen.Address.V
	case a.Listen.CertFile.V != "":
		return "https://" + listening.String()
	default:
		return listening.String()
	}
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
	f.Prefix.Default("queue")
	f.TTL.Default(election.DefaultTTL)
	f.Service.Default("queue-broker")
	f.DrainTimeout.Default(defaultDrainTimeout)
	f.Listen.Address.Default(DefaultListen)

	checkField(p, f.ID.From, "id", election.CheckID(f.ID.V))
	checkField(p, f.Prefix.From, "prefix", election.CheckPrefix(f.Prefix.V))
	agent.Between(p, "ttl", f.TTL, election.MinTTL, election.MaxTTL)
	agent.Between(p, "drain_timeout", f.DrainTimeout, MinDrainTimeout, MaxDrainTimeout)
	f.Listen.Check(p)
	f.checkAdvertise(p)
	level, err := agent.ParseLevel(f.LogLevel.V)
	if err != nil {
		p.Addf(f.LogLevel.From, "log_level", "%v", err)
	}
	a := &Agent{
		Broker: queue.BrokerConfig{
			Consul: f.Consul.Client(p), Prefix: f.Prefix.V, ID: f.ID.V, Address: f.Advertise.V, TTL: f.TTL.V, Service: f.Service.V,
		},
		Listen: *f.Listen, DrainTimeout: f.DrainTimeout.V,
		Log:     agent.LogConfig{Level: level, JSON: f.LogJSON.V},
		PeerTLS: agent.ClientTLS(p, f.Peer.CAFile, f.Peer.CertFile, f.Peer.KeyFile), PeerToken: f.peerToken(p),
	}
	a.Queues = f.queues(p)
	return a
}

// queues checks the blocks of queues.
func (f *file) queues(p *agent.Problems) []Queue {
	var all []Queue
	places := map[string]string{}
	for _, b := range f.Queues {
		name, from := b.Name, place(b.Body)
		if first, twice := places[name]; twice {
			p.Addf(from, "queue", "%q is there already, from %s", name, first)
			continue
		}
		places[name] = from
		checkField(p, from, "queue", queue.CheckName("queue", name))
		all = append(all, Queue{name, b.config(p)})
	}
	return all
}

// Queues reads the blocks of queues from files, which may be those of an agent. The error
// is an *agent.ConfigError.
func Queues(paths []string) ([]Queue, error) {
	f := newFile()
	if err := agent.Load(paths, f); err != nil {
		return nil, err
	}
	var p agent.Problems
	all := f.queues(&p)
	return all, p.Err()
}

// checkAdvertise finds addresses at which nobody can reach this broker.
func (f *file) checkAdvertise(p *agent.Problems) {
	if f.Advertise.IsSet() {
		if _, err := agent.BaseURL(f.Advertise.V); err != nil {
			p.Addf(f.Advertise.From, "advertise", "%v", err)
		}
		return
	}
	host, _, err := net.SplitHostPort(f.Listen.Address.V)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		p.Addf(f.Listen.Address.From, "advertise", "is missing: give the address at which other brokers and workers reach this one, such as 10.0.0.7:4050")
	}
}

// peerToken is what other brokers are shown: that of this one, unless something else is
// given.
func (f *file) peerToken(p *agent.Problems) string {
	v := f.Peer.TokenFile
	if v.V == "" {
		v = f.Listen.TokenFile
	}
	if f.Peer.TokenFile.V == "" {
		p = new(agent.Problems) // listen has told of its own
	}
	return agent.ReadToken(p, "token_file", v)
}

// checkField adds what is wrong with a field, by whatever package has found it.
func checkField(p *agent.Problems, from, field string, err error) {
	var one *election.FieldError
	var other *queue.FieldError
	switch {
	case errors.As(err, &one):
		p.Addf(from, field, "%s", one.Problem)
	case errors.As(err, &other):
		p.Addf(from, field, "%s", other.Problem)
	case err != nil:
		p.Addf(from, field, "%v", err)
	}
}
