package config

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/server"
)

// Limits of routes. They are there to find mistakes.
const (
	minTimeout = time.Millisecond
	maxTimeout = time.Hour
	maxCache   = 24 * time.Hour
	maxBytes   = 1 << 40
	maxCount   = 1 << 20
	maxDepth   = 64
	maxShards  = 10_000
)

// Defaults that are not those of other packages.
const (
	defaultShardMeta = "shard"
	defaultMerge     = jsonArray
	defaultTimeout   = time.Second
)

// off is the quantile and the budget of what is switched off.
const off = -1

// example shows the least that is needed.
const example = `there is none; give for example -route 'GET /search' -service search-leaf, or a file with
  route "search" {
    pattern = "GET /search"
    service = "search-leaf"
  }`

// routes checks the blocks of routes.
func (f *file) routes(p *agent.Problems) []server.Route {
	blocks := f.Routes
	if flags := &f.route; flags.place() != "" {
		flags.Name = flags.Service.V
		blocks = append(slices.Clone(blocks), flags)
	}
	if len(blocks) == 0 {
		p.Addf("", "route", "%s", example)
		return nil
	}
	all := make([]server.Route, 0, len(blocks))
	places := map[string]string{} // by name
	var taken []pattern
	for _, b := range blocks {
		name, from := b.Name, b.place()
		if first, twice := places[name]; twice {
			p.Addf(from, "route", "%q is there already, from %s", name, first)
			continue
		}
		places[name] = from
		if name != "" || b.Body != nil { // without -service, that is what is missing
			checkName(p, from, "route", name)
		}
		if !b.Pattern.IsSet() {
			p.Addf(from, "pattern", `is missing; write for example "GET /search"`)
		} else if checkPattern(p, b.Pattern, taken) {
			taken = append(taken, pattern{b.Pattern.V, name, from})
		}
		all = append(all, b.route(p, from))
	}
	return all
}

// route checks a block. Name and pattern are the caller's business.
func (b *routeBlock) route(p *agent.Problems, from string) server.Route {
	b.ShardMeta.Default(defaultShardMeta)
	b.Merge.Default(defaultMerge)
	if b.Service.V == "" {
		if b.Service.IsSet() {
			from = b.Service.From
		}
		p.Addf(from, "service", "is missing; it is the name that leaves have in Consul")
	}
	if slices.Contains(b.Tags.V, "") {
		p.Addf(b.Tags.From, "tags", `"" is no tag`)
	}
	r := server.Route{
		Name: b.Name, Pattern: b.Pattern.V, Service: b.Service.V, Tags: b.Tags.V, ShardMeta: b.ShardMeta.V,
		Merger: b.merger(p), Token: agent.ReadToken(p, "token_file", b.TokenFile), Idempotent: b.Idempotent.V, Stream: b.Stream.V, Coalesce: b.Coalesce.V, Cache: b.Cache.V,
	}
	b.checkShared(p)
	r.CacheBytes = count(p, "cache_bytes", b.CacheBytes, maxBytes, server.DefaultCacheBytes)
	r.MaxAnswer = int64(count(p, "max_answer", b.MaxAnswer, maxBytes, server.DefaultMaxAnswer))
	r.MaxDepth = count(p, "max_depth", b.MaxDepth, maxDepth, server.DefaultMaxDepth)
	r.Gather = b.gather(p, from)
	return r
}

// checkShared checks whether one answer can be that to several requests.
func (b *routeBlock) checkShared(p *agent.Problems) {
	field, from := "coalesce", b.Coalesce.From
	if b.Cache.IsSet() {
		agent.Between(p, "cache", b.Cache, 0, maxCache)
		if b.Cache.V > 0 {
			field, from = "cache", b.Cache.From
		}
	}
	if !b.Coalesce.V && b.Cache.V <= 0 {
		return
	}
	if b.Stream.V {
		p.Addf(from, field, "an answer that streams is to one request only; leave %s or stream out", field)
	}
	method := methodOf(b.Pattern.V)
	if !slices.Contains([]string{"", http.MethodGet, http.MethodHead, http.MethodOptions}, method) && !b.Idempotent.V {
		p.Addf(from, field, "%s requests have effects of their own; leave %s out, or write idempotent = true if they have none", method, field)
	}
}

// gather checks how leaves are asked. Settings that are not given stay 0, which is the
// default of package gather.
func (b *routeBlock) gather(all *agent.Problems, from string) gather.Config {
	p := &agent.Problems{}
	b.Timeout.Default(defaultTimeout)
	agent.Between(p, "timeout", b.Timeout, minTimeout, maxTimeout)
	if b.MaxTimeout.IsSet() {
		agent.Between(p, "max_timeout", b.MaxTimeout, b.Timeout.V, maxTimeout)
	}
	c := gather.Config{
		Shards:  b.shards(p),
		Timeout: b.Timeout.V, MaxTimeout: b.MaxTimeout.V,
		Reserve:     fraction(p, "reserve", b.Reserve, "from 0 to 0.5", func(x float64) bool { return x >= 0 && x <= 0.5 }),
		MinCoverage: fraction(p, "min_coverage", b.MinCoverage, aboveZero, isAboveZero),
		Wait:        fraction(p, "wait", b.Wait, "from 0 to 1", func(x float64) bool { return x >= 0 && x <= 1 }),
		MaxPartial:  int64(count(p, "max_partial", b.MaxPartial, maxBytes, 0)),
		Memory:      int64(count(p, "memory", b.Memory, maxBytes, 0)),
		MaxInFlight: count(p, "max_in_flight", b.MaxInFlight, maxCount, 0),
	}
	if h := b.Hedge; h != nil {
		c.HedgeQuantile = fraction(p, "quantile", h.Quantile, "above 0 and below 1", func(x float64) bool { return x > 0 && x < 1 })
		c.HedgeBudget = fraction(p, "budget", h.Budget, aboveZero+"; to switch hedging off, write enabled = false", isAboveZero)
		if h.Enabled.IsSet() && !h.Enabled.V {
			c.HedgeQuantile = off
		}
	}
	if r := b.Retry; r != nil {
		c.RetryBudget = fraction(p, "budget", r.Budget, aboveZero+"; to switch retries off, write enabled = false", isAboveZero)
		if r.Enabled.IsSet() && !r.Enabled.V {
			c.RetryBudget = off
		}
	}
	if err := p.Err(); err != nil {
		all.Add(err)
		return c
	}
	// What only the whole can show.
	g, err := gather.New(c)
	if err != nil {
		blame(all, from, err, map[string]setting{"memory": {"memory", b.Memory.From}})
		return c
	}
	g.Close() // it has asked nobody
	return c
}

// shards lists the names of the shards that there have to be.
func (b *routeBlock) shards(p *agent.Problems) []string {
	from := b.Shards.From
	if len(b.Shards.V) > 0 && b.ShardMeta.V == "" {
		p.Addf(from, "shards", `shards have no names if shard_meta = ""; leave one of the two out`)
		return nil
	}
	var names []string
	seen := map[string]bool{}
	for _, text := range b.Shards.V {
		list, err := expand(text)
		if err != nil {
			p.Addf(from, "shards", "%v", err)
			return nil
		}
		for _, name := range list {
			if seen[name] {
				p.Addf(from, "shards", "%q is there twice", name)
				return nil
			}
			seen[name] = true
			names = append(names, name)
		}
		if len(names) > maxShards {
			p.Addf(from, "shards", "more than %d", maxShards)
			return nil
		}
	}
	return names
}

// expand returns the numbers of a range such as "0..15", or what is none as it is.
func expand(text string) ([]string, error) {
	first, last, isRange := strings.Cut(text, "..")
	if !isRange {
		if text == "" {
			return nil, errors.New(`"" is no name of a shard`)
		}
		return []string{text}, nil
	}
	a, errA := strconv.ParseUint(first, 10, 31)
	b, errB := strconv.ParseUint(last, 10, 31)
	switch {
	case errA != nil || errB != nil || a > b:
		return nil, fmt.Errorf(`%q is no range of whole numbers such as "0..15"`, text)
	case b-a >= maxShards:
		return nil, fmt.Errorf("%q are more than %d", text, maxShards)
	}
	list := make([]string, 0, b-a+1)
	for n := a; n <= b; n++ {
		list = append(list, strconv.FormatUint(n, 10))
	}
	return list, nil
}

const aboveZero = "above 0 and up to 1"

func isAboveZero(x float64) bool { return x > 0 && x <= 1 }

// fraction reads a number that may not be whole; 0: it is not given. In says which ones
// there are, to people.
func fraction(p *agent.Problems, field string, v agent.Value[string], in string, is func(float64) bool) float64 {
	if !v.IsSet() {
		return 0
	}
	x, err := strconv.ParseFloat(v.V, 64)
	if err != nil || !is(x) { // NaN is in no range
		p.Addf(v.From, field, "%q is not a number %s", v.V, in)
		return 0 // it is complained of once
	}
	if x == 0 {
		return math.SmallestNonzeroFloat64 // 0 would be the default
	}
	return x
}

// count reads a number from 1 to most, if it is given.
func count(p *agent.Problems, field string, v agent.Value[int], most, preset int) int {
	if !v.IsSet() {
		return preset
	}
	agent.Between(p, field, v, 1, most)
	return v.V
}
