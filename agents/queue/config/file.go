package config

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// file is what files and flags can say.
type file struct {
	ID           agent.Value[string]        `hcl:"id,optional"`
	Advertise    agent.Value[string]        `hcl:"advertise,optional"`
	Prefix       agent.Value[string]        `hcl:"prefix,optional"`
	TTL          agent.Value[time.Duration] `hcl:"ttl,optional"`
	Service      agent.Value[string]        `hcl:"service,optional"`
	LogLevel     agent.Value[string]        `hcl:"log_level,optional"`
	LogJSON      agent.Value[bool]          `hcl:"log_json,optional"`
	DrainTimeout agent.Value[time.Duration] `hcl:"drain_timeout,optional"`
	Consul       *agent.Consul              `hcl:"consul,block"`
	Listen       *agent.Listen              `hcl:"listen,block"`
	Peer         *peer                      `hcl:"peer,block"`
	Queues       []*queueBlock              `hcl:"queue,block"`
}

// newFile has all blocks that flags may fill.
func newFile() *file {
	return &file{Consul: &agent.Consul{}, Listen: &agent.Listen{}, Peer: &peer{}}
}

// peer is how other brokers are spoken to.
type peer struct {
	TokenFile agent.Value[string] `hcl:"token_file,optional"`
	CAFile    agent.Value[string] `hcl:"ca_file,optional"`
	CertFile  agent.Value[string] `hcl:"cert_file,optional"`
	KeyFile   agent.Value[string] `hcl:"key_file,optional"`
}

// queueBlock is a queue that is made at the start.
type queueBlock struct {
	Name      string                     `hcl:"name,label"`
	Body      hcl.Body                   `hcl:",body"` // tells the place
	Shards    agent.Value[int]           `hcl:"shards,optional"`
	Retention agent.Value[time.Duration] `hcl:"retention,optional"`
	MaxItems  agent.Value[int]           `hcl:"max_items,optional"`
	MaxDead   agent.Value[int]           `hcl:"max_dead,optional"`
	Stages    []*stageBlock              `hcl:"stage,block"`
}

// stageBlock is a step of work. Rate is a text or a number, such as "0.5".
type stageBlock struct {
	Name        string                     `hcl:"name,label"`
	Body        hcl.Body                   `hcl:",body"`
	Lease       agent.Value[time.Duration] `hcl:"lease,optional"`
	MaxRuntime  agent.Value[time.Duration] `hcl:"max_runtime,optional"`
	MaxFailed   agent.Value[int]           `hcl:"max_failed,optional"`
	MaxLost     agent.Value[int]           `hcl:"max_lost,optional"`
	Backoff     agent.Value[time.Duration] `hcl:"backoff,optional"`
	MaxBackoff  agent.Value[time.Duration] `hcl:"max_backoff,optional"`
	MaxInFlight agent.Value[int]           `hcl:"max_in_flight,optional"`
	Rate        agent.Value[string]        `hcl:"rate,optional"`
	Next        agent.Value[string]        `hcl:"next,optional"`
	Collect     agent.Value[int]           `hcl:"collect,optional"`
	Scale       *scaleBlock                `hcl:"scale,block"`
}

// scaleBlock says how many workers a stage should have, started as jobs of Nomad.
type scaleBlock struct {
	Job            agent.Value[string] `hcl:"job,optional"`
	Namespace      agent.Value[string] `hcl:"namespace,optional"`
	Min            agent.Value[int]    `hcl:"min,optional"`
	Max            agent.Value[int]    `hcl:"max,optional"`
	ItemsPerWorker agent.Value[int]    `hcl:"items_per_worker,optional"`
}

// flags declares all flags but -config.
func (f *file) flags(fs *flag.FlagSet) {
	f.ID.Flag(fs, "id", "`name` of this broker, unique under the prefix (QUEUE_ID; default in Nomad group-index-allocation, elsewhere host-pid)")
	f.Advertise.Flag(fs, "advertise", "`address` at which other brokers and workers reach this one (QUEUE_ADVERTISE; default that of -listen)")
	f.Prefix.Flag(fs, "prefix", "`prefix` of the keys in Consul (QUEUE_PREFIX; default queue)")
	f.TTL.Flag(fs, "ttl", "`time` from 1s to 1m after which a dead broker is given up (QUEUE_TTL; default 1.5s)")
	f.Service.Flag(fs, "service", "`name` of the Consul service that carries the check (default queue-broker)")
	f.LogLevel.Flag(fs, "log-level", "trace, debug, info, warn, error or off: `what` is logged (QUEUE_LOG_LEVEL; default info)")
	f.LogJSON.Flag(fs, "log-json", "write logs as JSON (QUEUE_LOG_JSON)")
	f.DrainTimeout.Flag(fs, "drain-timeout", "`time` from 1s to 10m to give shards away at the end (default 10s)")
	f.Peer.TokenFile.Flag(fs, "peer-token-file", "`file` with the token of other brokers (default that of -listen-token-file)")
	f.Peer.CAFile.Flag(fs, "peer-ca-file", "`file` with the CA of other brokers' certificates")
	f.Peer.CertFile.Flag(fs, "peer-cert-file", "`file` with the certificate that other brokers are shown")
	f.Peer.KeyFile.Flag(fs, "peer-key-file", "`file` with its key")
	f.Listen.Flags(fs)
	f.Consul.Flags(fs)
}

// env takes what flags have not set from the environment.
func (f *file) env(p *agent.Problems) {
	f.ID.Env(p, "QUEUE_ID")
	f.Advertise.Env(p, "QUEUE_ADVERTISE")
	f.Prefix.Env(p, "QUEUE_PREFIX")
	f.TTL.Env(p, "QUEUE_TTL")
	f.LogLevel.Env(p, "QUEUE_LOG_LEVEL")
	f.LogJSON.Env(p, "QUEUE_LOG_JSON")
	f.Listen.Address.Env(p, "QUEUE_LISTEN")
}

// place is where a block stands.
func place(body hcl.Body) string {
	r := body.MissingItemRange()
	return fmt.Sprintf("%s:%d:%d", r.Filename, r.Start.Line, r.Start.Column)
}

// stageField is how package queue names a field of a stage.
var stageField = regexp.MustCompile(`^stages\[(\d+)\]\.([\w.]+)$`)

// config turns the block into a configuration with defaults.
func (b *queueBlock) config(p *agent.Problems) queue.Config {
	cfg := queue.Config{
		Shards: b.Shards.V, Retention: queue.Duration(b.Retention.V), MaxItems: b.MaxItems.V, MaxDead: b.MaxDead.V,
	}
	for _, s := range b.Stages {
		cfg.Stages = append(cfg.Stages, s.stage(p))
	}
	full, err := cfg.WithDefaults()
	var bad *queue.FieldError
	if !errors.As(err, &bad) {
		if err != nil {
			p.Addf(place(b.Body), "queue", "%v", err)
		}
		return full
	}
	from, field := b.places()[bad.Field], bad.Field
	if m := stageField.FindStringSubmatch(bad.Field); m != nil {
		i, _ := strconv.Atoi(m[1]) // it has digits only
		from, field = b.Stages[i].places()[m[2]], m[2]
		if from == "" {
			from = place(b.Stages[i].Body)
		}
	}
	if from == "" {
		from = place(b.Body)
	}
	p.Addf(from, field, "%s", bad.Problem)
	return full
}

// places of the fields, as package queue names them.
func (b *queueBlock) places() map[string]string {
	return map[string]string{
		"shards": b.Shards.From, "retention": b.Retention.From, "max_items": b.MaxItems.From, "max_dead": b.MaxDead.From,
	}
}

func (s *stageBlock) places() map[string]string {
	places := map[string]string{
		"lease": s.Lease.From, "max_runtime": s.MaxRuntime.From, "max_failed": s.MaxFailed.From, "max_lost": s.MaxLost.From,
		"backoff": s.Backoff.From, "max_backoff": s.MaxBackoff.From, "max_in_flight": s.MaxInFlight.From,
		"rate": s.Rate.From, "next": s.Next.From, "collect": s.Collect.From,
	}
	if sc := s.Scale; sc != nil {
		places["scale.job"], places["scale.min"], places["scale.max"] = sc.Job.From, sc.Min.From, sc.Max.From
		places["scale.items_per_worker"] = sc.ItemsPerWorker.From
	}
	return places
}

func (s *stageBlock) stage(p *agent.Problems) queue.Stage {
	out := queue.Stage{
		Name: s.Name, Lease: queue.Duration(s.Lease.V), MaxRuntime: queue.Duration(s.MaxRuntime.V),
		MaxFailed: s.MaxFailed.V, MaxLost: s.MaxLost.V, Backoff: queue.Duration(s.Backoff.V), MaxBackoff: queue.Duration(s.MaxBackoff.V),
		MaxInFlight: s.MaxInFlight.V, Next: s.Next.V, Collect: s.Collect.V,
	}
	if sc := s.Scale; sc != nil {
		out.Scale = &queue.Scale{Job: sc.Job.V, Namespace: sc.Namespace.V, Min: sc.Min.V, Max: sc.Max.V, ItemsPerWorker: sc.ItemsPerWorker.V}
	}
	if s.Rate.IsSet() {
		rate, err := strconv.ParseFloat(s.Rate.V, 64)
		if err != nil || math.IsNaN(rate) {
			p.Addf(s.Rate.From, "rate", "%q is not a number of items in a second", s.Rate.V)
			rate = 0 // it is complained of once
		}
		out.Rate = rate
	}
	return out
}
