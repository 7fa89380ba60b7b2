package config

import (
	"flag"
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
)

// file is what files and flags can say.
type file struct {
	ID           agent.Value[string]        `hcl:"id,optional"`
	LogLevel     agent.Value[string]        `hcl:"log_level,optional"`
	LogJSON      agent.Value[bool]          `hcl:"log_json,optional"`
	DrainTimeout agent.Value[time.Duration] `hcl:"drain_timeout,optional"`
	Consul       *agent.Consul              `hcl:"consul,block"`
	Listen       *agent.Listen              `hcl:"listen,block"`
	Routes       []*routeBlock              `hcl:"route,block"`

	route routeBlock // of the flags; its name is the service's
}

// newFile has all blocks that flags may fill.
func newFile() *file { return &file{Consul: &agent.Consul{}, Listen: &agent.Listen{}} }

// routeBlock says what is asked of whom. Fractions are texts or numbers, such as "0.95".
type routeBlock struct {
	Name        string                     `hcl:"name,label"`
	Body        hcl.Body                   `hcl:",body"` // tells the place; nil: flags
	Pattern     agent.Value[string]        `hcl:"pattern,optional"`
	Service     agent.Value[string]        `hcl:"service,optional"`
	Tags        agent.Value[[]string]      `hcl:"tags,optional"`
	ShardMeta   agent.Value[string]        `hcl:"shard_meta,optional"`
	Shards      agent.Value[[]string]      `hcl:"shards,optional"`
	Merge       agent.Value[string]        `hcl:"merge,optional"`
	TopK        *topKBlock                 `hcl:"top_k,block"`
	Container   *containerBlock            `hcl:"container,block"`
	TokenFile   agent.Value[string]        `hcl:"token_file,optional"`
	Idempotent  agent.Value[bool]          `hcl:"idempotent,optional"`
	Stream      agent.Value[bool]          `hcl:"stream,optional"`
	Coalesce    agent.Value[bool]          `hcl:"coalesce,optional"`
	Cache       agent.Value[time.Duration] `hcl:"cache,optional"`
	CacheBytes  agent.Value[int]           `hcl:"cache_bytes,optional"`
	Timeout     agent.Value[time.Duration] `hcl:"timeout,optional"`
	MaxTimeout  agent.Value[time.Duration] `hcl:"max_timeout,optional"`
	Reserve     agent.Value[string]        `hcl:"reserve,optional"`
	MinCoverage agent.Value[string]        `hcl:"min_coverage,optional"`
	Wait        agent.Value[string]        `hcl:"wait,optional"`
	MaxPartial  agent.Value[int]           `hcl:"max_partial,optional"`   // bytes
	Memory      agent.Value[int]           `hcl:"memory,optional"`        // bytes
	MaxAnswer   agent.Value[int]           `hcl:"max_answer,optional"`    // bytes
	MaxInFlight agent.Value[int]           `hcl:"max_in_flight,optional"` // requests
	MaxDepth    agent.Value[int]           `hcl:"max_depth,optional"`     // roots
	Hedge       *hedgeBlock                `hcl:"hedge,block"`
	Retry       *retryBlock                `hcl:"retry,block"`
}

// topKBlock is for merge = "top-k".
type topKBlock struct {
	Body      hcl.Body            `hcl:",body"`
	K         agent.Value[int]    `hcl:"k,optional"`
	KParam    agent.Value[string] `hcl:"k_param,optional"`
	MaxK      agent.Value[int]    `hcl:"max_k,optional"`
	Field     agent.Value[string] `hcl:"field,optional"`
	Ascending agent.Value[bool]   `hcl:"ascending,optional"`
	Items     agent.Value[string] `hcl:"items,optional"`
	Unique    agent.Value[string] `hcl:"unique,optional"`
}

// containerBlock is for merge = "container".
type containerBlock struct {
	Body      hcl.Body            `hcl:",body"`
	URL       agent.Value[string] `hcl:"url,optional"`
	FoldBytes agent.Value[int]    `hcl:"fold_bytes,optional"`
	FoldParts agent.Value[int]    `hcl:"fold_parts,optional"`
}

// hedgeBlock says when another replica helps a slow one out.
type hedgeBlock struct {
	Enabled  agent.Value[bool]   `hcl:"enabled,optional"`
	Quantile agent.Value[string] `hcl:"quantile,optional"`
	Budget   agent.Value[string] `hcl:"budget,optional"`
}

// retryBlock says how many leaves are asked again after a failure.
type retryBlock struct {
	Enabled agent.Value[bool]   `hcl:"enabled,optional"`
	Budget  agent.Value[string] `hcl:"budget,optional"`
}

// flags declares all flags but -config.
func (f *file) flags(fs *flag.FlagSet) {
	f.ID.Flag(fs, "id", "`name` of this root, unique among all that a request may pass (SCATTER_ID; default in Nomad group-index-allocation, elsewhere host-pid)")
	f.LogLevel.Flag(fs, "log-level", "trace, debug, info, warn, error or off: `what` is logged (SCATTER_LOG_LEVEL; default info)")
	f.LogJSON.Flag(fs, "log-json", "write logs as JSON (SCATTER_LOG_JSON)")
	f.DrainTimeout.Flag(fs, "drain-timeout", "`time` from 1s to 10m for requests under way to end (default 10s)")
	r := &f.route
	r.Pattern.Flag(fs, "route", "`pattern` such as 'GET /search' of a route besides those of the files, named after its service")
	r.Service.Flag(fs, "service", "`name` of the Consul service that -route asks")
	r.Merge.Flag(fs, "merge", "concat, json-array, ndjson, json-merge or sum: `how` the answers to -route are merged (default json-array)")
	r.ShardMeta.Flag(fs, "shard-meta", "`key` of the service's meta that names an instance's shard, for -route; empty: each instance is one (default shard)")
	r.Timeout.Flag(fs, "timeout", "`time` for requests to -route that do not say so themselves (default 1s)")
	r.MinCoverage.Flag(fs, "min-coverage", "`share` of leaves, above 0 and up to 1, that has to be in an answer to -route (default 1)")
	f.Listen.Flags(fs)
	f.Consul.Flags(fs)
}

// env takes what flags have not set from the environment.
func (f *file) env(p *agent.Problems) {
	f.ID.Env(p, "SCATTER_ID")
	f.LogLevel.Env(p, "SCATTER_LOG_LEVEL")
	f.LogJSON.Env(p, "SCATTER_LOG_JSON")
	f.Listen.Address.Env(p, "SCATTER_LISTEN")
}

// place is where the route was given.
func (b *routeBlock) place() string {
	if b.Body != nil {
		return place(b.Body)
	}
	for _, from := range []string{b.Pattern.From, b.Service.From, b.Merge.From, b.ShardMeta.From, b.Timeout.From, b.MinCoverage.From} {
		if from != "" {
			return from
		}
	}
	return ""
}

// place is where a block stands.
func place(body hcl.Body) string {
	r := body.MissingItemRange()
	return fmt.Sprintf("%s:%d:%d", r.Filename, r.Start.Line, r.Start.Column)
}
