package config

import (
	"errors"
	"flag"
	"regexp"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/elector/server"
	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// DefaultListen is the address of the HTTP API.
const DefaultListen = "127.0.0.1:4040"

// Limits and default of drain_timeout.
const (
	MinDrainTimeout     = time.Second
	MaxDrainTimeout     = 10 * time.Minute
	defaultDrainTimeout = 10 * time.Second
)

// Member is how a process takes part in elections. It is checked.
type Member struct {
	Election election.Config // without a logger
	Log      agent.LogConfig
	places   map[string]string // of fields of Election
}

// Agent is the configuration of the agent. It is checked.
type Agent struct {
	Member
	Elections    []server.Election // patterns are expanded; sorted as in the files
	DataPrefix   string
	Listen       agent.Listen
	DrainTimeout time.Duration
}

// Explain adds the place to an *election.FieldError. Other errors stay as they are.
func (m *Member) Explain(err error) error {
	var bad *election.FieldError
	if !errors.As(err, &bad) {
		return err
	}
	var p agent.Problems
	p.Addf(m.places[bad.Field], bad.Field, "%s", bad.Problem)
	return p.Err()
}

// AgentSource declares the flags of the agent. The function that it returns is called
// after they have been parsed; its error is an *agent.ConfigError.
func AgentSource(fs *flag.FlagSet) func() (*Agent, error) {
	m := newMember()
	var paths, elections agent.Value[[]string]
	paths.Flag(fs, "config", "HCL or JSON `file`, or directory of such; may be given several times")
	elections.Flag(fs, "election", "`name` or pattern of an election to join, besides those of the files; may be given several times")
	m.flags(fs)
	m.Service.Port.Flag(fs, "service-port", "`port` of that service (default none)")
	m.Service.Tags.Flag(fs, "service-tag", "`tag` of that service; may be given several times")
	m.DataPrefix.Flag(fs, "data-prefix", "`prefix` of the keys that leaders write by the kv route (default election-data)")
	m.DrainTimeout.Flag(fs, "drain-timeout", "`time` from 1s to 10m to give leaderships away at the end (default 10s)")
	m.Listen.Flags(fs)
	return func() (*Agent, error) {
		var p agent.Problems
		m.env(&p)
		m.Listen.Address.Env(&p, "ELECTOR_LISTEN")
		p.Add(agent.Load(paths.V, m))
		if err := p.Err(); err != nil {
			return nil, err // to check what could not be read would only add noise
		}
		for _, name := range elections.V {
			m.Elections = append(m.Elections, &electionBlock{Name: name})
		}
		a := m.agent(&p)
		if err := p.Err(); err != nil {
			return nil, err
		}
		return a, nil
	}
}

// MemberSource is AgentSource for a process that takes part by itself, without files.
func MemberSource(fs *flag.FlagSet) func() (*Member, error) {
	m := newMember()
	m.flags(fs)
	return func() (*Member, error) {
		var p agent.Problems
		m.env(&p)
		member := m.member(&p)
		if err := p.Err(); err != nil {
			return nil, err
		}
		return &member, nil
	}
}

// agent checks everything.
func (m *member) agent(p *agent.Problems) *Agent {
	a := &Agent{Member: m.member(p), Listen: *m.Listen}
	m.DataPrefix.Default(server.DefaultDataPrefix)
	checkPrefix(p, "data_prefix", m.DataPrefix)
	a.DataPrefix = m.DataPrefix.V
	m.DrainTimeout.Default(defaultDrainTimeout)
	agent.Between(p, "drain_timeout", m.DrainTimeout, MinDrainTimeout, MaxDrainTimeout)
	a.DrainTimeout = m.DrainTimeout.V
	a.Listen.Address.Default(DefaultListen)
	a.Listen.Check(p)
	a.Elections = m.elections(p)
	return a
}

// member checks what all have in common.
func (m *member) member(p *agent.Problems) Member {
	if !m.ID.IsSet() {
		id, err := agent.DefaultID()
		if err != nil {
			p.Addf("", "id", "%v", err)
		}
		m.ID.Default(id)
	}
	m.Prefix.Default("election")
	m.TTL.Default(election.DefaultTTL)
	m.SessionTTL.Default(election.MinSessionTTL)
	m.Service.Name.Default("elector")

	checkField(p, m.ID.From, election.CheckID(m.ID.V))
	checkPrefix(p, "prefix", m.Prefix)
	agent.Between(p, "ttl", m.TTL, election.MinTTL, election.MaxTTL)
	agent.Between(p, "session_ttl", m.SessionTTL, election.MinSessionTTL, election.MaxSessionTTL)
	checkService(p, m.Service.Name, m.Service.Port)
	level, err := agent.ParseLevel(m.LogLevel.V)
	if err != nil {
		p.Addf(m.LogLevel.From, "log_level", "%v", err)
	}
	member := Member{
		Election: election.Config{
			Consul: m.Consul.Client(p), Prefix: m.Prefix.V, ID: m.ID.V,
			Address: m.Address.V, Meta: m.Meta.V,
			Mode: parseMode(p, m.Mode), TTL: m.TTL.V, SessionTTL: m.SessionTTL.V,
			Service: m.Service.Name.V, ServicePort: m.Service.Port.V, ServiceTags: m.Service.Tags.V,
		},
		Log: agent.LogConfig{Level: level, JSON: m.LogJSON.V},
		places: map[string]string{
			"id": m.ID.From, "prefix": m.Prefix.From, "mode": m.Mode.From, "ttl": m.TTL.From,
			"session_ttl": m.SessionTTL.From, "meta": m.Meta.From, "address": m.Address.From, "service": m.Service.Name.From,
		},
	}
	if p.Err() == nil {
		p.Add(member.Explain(member.Election.Validate())) // what only the whole can show
	}
	return member
}

// checkField adds an *election.FieldError.
func checkField(p *agent.Problems, from string, err error) {
	var bad *election.FieldError
	switch {
	case errors.As(err, &bad):
		p.Addf(from, bad.Field, "%s", bad.Problem)
	case err != nil:
		p.Addf(from, "", "%v", err)
	}
}

// checkPrefix checks the prefix of a field with another name than the library's.
func checkPrefix(p *agent.Problems, field string, v agent.Value[string]) {
	var bad *election.FieldError
	if errors.As(election.CheckPrefix(v.V), &bad) {
		p.Addf(v.From, field, "%s", bad.Problem)
	}
}

// parseMode reads a mode; one that is not given is "".
func parseMode(p *agent.Problems, v agent.Value[string]) election.Mode {
	if !v.IsSet() {
		return ""
	}
	mode, err := election.ParseMode(v.V)
	if err != nil {
		p.Addf(v.From, "mode", "%v", err)
	}
	return mode
}

// labelForm is a name that DNS can have.
var labelForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// checkLabel is for names that should be found in DNS.
func checkLabel(p *agent.Problems, field string, v agent.Value[string]) {
	if !labelForm.MatchString(v.V) {
		p.Addf(v.From, field, "%q is not 1 to 63 letters, digits and dashes, beginning and ending with a letter or digit", v.V)
	}
}

func checkService(p *agent.Problems, name agent.Value[string], port agent.Value[int]) {
	checkLabel(p, "name", name)
	const maxPort = 65535
	agent.Between(p, "port", port, 0, maxPort)
}
