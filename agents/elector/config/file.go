package config

import (
	"flag"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
)

// member is how a process takes part. The agent reads it from files and flags,
// "elector run" from flags only.
type member struct {
	ID         agent.Value[string]            `hcl:"id,optional"`
	Address    agent.Value[string]            `hcl:"address,optional"`
	Meta       agent.Value[map[string]string] `hcl:"meta,optional"`
	Mode       agent.Value[string]            `hcl:"mode,optional"`
	TTL        agent.Value[time.Duration]     `hcl:"ttl,optional"`
	SessionTTL agent.Value[time.Duration]     `hcl:"session_ttl,optional"`
	Prefix     agent.Value[string]            `hcl:"prefix,optional"`
	LogLevel   agent.Value[string]            `hcl:"log_level,optional"`
	LogJSON    agent.Value[bool]              `hcl:"log_json,optional"`
	Service    *service                       `hcl:"service,block"`
	Consul     *agent.Consul                  `hcl:"consul,block"`

	// What only the agent has.
	DataPrefix   agent.Value[string]        `hcl:"data_prefix,optional"`
	DrainTimeout agent.Value[time.Duration] `hcl:"drain_timeout,optional"`
	Listen       *agent.Listen              `hcl:"listen,block"`
	Elections    []*electionBlock           `hcl:"election,block"`
}

// service is the Consul service of the elector itself, which carries the check.
type service struct {
	Name agent.Value[string]   `hcl:"name,optional"`
	Port agent.Value[int]      `hcl:"port,optional"`
	Tags agent.Value[[]string] `hcl:"tags,optional"`
}

// electionBlock is an election to join. Its name may be a pattern that stands for
// several.
type electionBlock struct {
	Name     string              `hcl:"name,label"`
	Body     hcl.Body            `hcl:",body"` // tells the place
	Mode     agent.Value[string] `hcl:"mode,optional"`
	Priority agent.Value[int]    `hcl:"priority,optional"`
	OnDemand agent.Value[bool]   `hcl:"on_demand,optional"`
	Service  *leaderService      `hcl:"service,block"`
	OnGain   *command            `hcl:"on_gain,block"`
	OnLoss   *command            `hcl:"on_loss,block"`
}

// leaderService is the Consul service of a candidate, with a tag while it leads.
type leaderService struct {
	Name      agent.Value[string]   `hcl:"name,optional"`
	Address   agent.Value[string]   `hcl:"address,optional"`
	Port      agent.Value[int]      `hcl:"port,optional"`
	Tags      agent.Value[[]string] `hcl:"tags,optional"`
	LeaderTag agent.Value[string]   `hcl:"leader_tag,optional"`
}

// command is run when leadership begins or ends.
type command struct {
	Command agent.Value[[]string]      `hcl:"command,optional"`
	Timeout agent.Value[time.Duration] `hcl:"timeout,optional"`
}

// newMember has all blocks that flags may fill.
func newMember() *member {
	return &member{Service: &service{}, Consul: &agent.Consul{}, Listen: &agent.Listen{}}
}

// flags declares what the agent and "elector run" have in common.
func (m *member) flags(fs *flag.FlagSet) {
	m.ID.Flag(fs, "id", "`name` of this candidate, unique under the prefix (ELECTOR_ID; default in Nomad group-index-allocation, elsewhere host-pid)")
	m.Address.Flag(fs, "advertise", "`address` that others are told when this candidate leads")
	m.Meta.Flag(fs, "meta", "`key=value` that others are told; may be given several times")
	m.Mode.Flag(fs, "mode", "strict, balanced or fenced: `what` stands between two leaders (ELECTOR_MODE; default balanced)")
	m.TTL.Flag(fs, "ttl", "`time` from 1s to 1m after which a dead candidate is given up, modes balanced and fenced (ELECTOR_TTL; default 1.5s)")
	m.SessionTTL.Flag(fs, "session-ttl", "`time` from 10s to 1m, the same in mode strict (ELECTOR_SESSION_TTL; default 10s)")
	m.Prefix.Flag(fs, "prefix", "`prefix` of the keys in Consul (ELECTOR_PREFIX; default election)")
	m.Service.Name.Flag(fs, "service", "`name` of the Consul service that carries the check (default elector)")
	m.Consul.Flags(fs)
	m.LogLevel.Flag(fs, "log-level", "trace, debug, info, warn, error or off: `what` is logged (ELECTOR_LOG_LEVEL; default info)")
	m.LogJSON.Flag(fs, "log-json", "write logs as JSON (ELECTOR_LOG_JSON)")
}

// env takes what flags have not set from the environment.
func (m *member) env(p *agent.Problems) {
	m.ID.Env(p, "ELECTOR_ID")
	m.Mode.Env(p, "ELECTOR_MODE")
	m.TTL.Env(p, "ELECTOR_TTL")
	m.SessionTTL.Env(p, "ELECTOR_SESSION_TTL")
	m.Prefix.Env(p, "ELECTOR_PREFIX")
	m.LogLevel.Env(p, "ELECTOR_LOG_LEVEL")
	m.LogJSON.Env(p, "ELECTOR_LOG_JSON")
}
