package gather

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/semaphore"
)

// Config says how a group is asked. Zero values are defaults.
type Config struct {
	// Name is that of the service, for messages.
	Name string
	// Shards are the names of those that there have to be. One of them that has no leaf is
	// missing. Others are asked as well. Default: there have to be those that there are.
	Shards []string
	// Timeout is how long a request may take if it does not say so itself; MaxTimeout
	// bounds what it may say. Defaults 1 s, 30 s.
	Timeout, MaxTimeout time.Duration
	// Reserve is the share of the time that is kept for the merge. Default 0.05.
	Reserve float64
	// MinCoverage is the share of leaves that has to be in an answer, unless the request
	// says otherwise. Default 1.
	MinCoverage float64
	// Wait is the share of the time left for which others are waited for when there is
	// coverage enough. Default 0.2.
	Wait float64
	// HedgeQuantile: a leaf that has not answered when this share of all would have is
	// helped out by another one. Default 0.95; negative: never.
	HedgeQuantile float64
	// HedgeBudget bounds that to a share of all requests to leaves. Default 0.05.
	HedgeBudget float64
	// RetryBudget bounds tries after a failure to a share of all requests to leaves.
	// Default 0.2; negative: none.
	RetryBudget float64
	// MaxPartial is the largest answer of a leaf, in bytes. Default 8 MiB.
	MaxPartial int64
	// Memory bounds the answers that wait to be merged, of all requests, in bytes.
	// Default 32 MiB; at least twice MaxPartial.
	Memory int64
	// MaxInFlight bounds the requests at a time. Default 256.
	MaxInFlight int
	// Transport asks leaves. Default: one of its own.
	Transport http.RoundTripper
	Logger    hclog.Logger
}

const (
	// small is the size of answers up to which all are alike to the bound of memory.
	small = 64 << 10
	// retryFloor is how many retries a second are possible however few requests there
	// are, as in Finagle's retry budget.
	retryFloor = 10
	// keepVanished is how long the leaves of a shard are asked that the catalog has no more.
	keepVanished = time.Minute
)

// withDefaults fills in what is missing. The error names the field.
func (c Config) withDefaults() (Config, error) {
	if c.Timeout == 0 {
		c.Timeout = time.Second
	}
	if c.MaxTimeout == 0 {
		c.MaxTimeout = max(30*time.Second, c.Timeout)
	}
	for _, d := range []struct {
		value  *float64
		preset float64
	}{{&c.Reserve, 0.05}, {&c.MinCoverage, 1}, {&c.Wait, 0.2}, {&c.HedgeQuantile, 0.95}, {&c.HedgeBudget, 0.05}, {&c.RetryBudget, 0.2}} {
		if *d.value == 0 {
			*d.value = d.preset
		}
	}
	if c.MaxPartial == 0 {
		c.MaxPartial = 8 << 20
	}
	if c.Memory == 0 {
		c.Memory = max(32<<20, 2*c.MaxPartial)
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 256
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	switch {
	case c.Timeout < 0 || c.MaxTimeout < c.Timeout:
		return c, fmt.Errorf("timeout: %s is not between 0 and the largest, %s", c.Timeout, c.MaxTimeout)
	case c.Reserve < 0 || c.Reserve > 0.5:
		return c, fmt.Errorf("reserve: %v is not between 0 and 0.5", c.Reserve)
	case !(c.MinCoverage > 0 && c.MinCoverage <= 1):
		return c, fmt.Errorf("min_coverage: %v is not between 0 and 1", c.MinCoverage)
	case c.Wait < 0 || c.Wait > 1:
		return c, fmt.Errorf("wait: %v is not between 0 and 1", c.Wait)
	case c.HedgeQuantile >= 1:
		return c, fmt.Errorf("hedge quantile: %v is not less than 1", c.HedgeQuantile)
	case c.HedgeBudget < 0 || c.HedgeBudget > 1:
		return c, fmt.Errorf("hedge budget: %v is not between 0 and 1", c.HedgeBudget)
	case c.RetryBudget > 1:
		return c, fmt.Errorf("retry budget: %v is not at most 1", c.RetryBudget)
	case c.MaxInFlight < 1:
		return c, fmt.Errorf("max_in_flight: %d is less than 1", c.MaxInFlight)
	case c.MaxPartial < 0 || c.Memory < 2*max(c.MaxPartial, small):
		return c, fmt.Errorf("memory: %d bytes are less than two of the largest partial answers, %d each", c.Memory, c.MaxPartial)
	}
	return c, nil
}

// Group is the leaves of a service, and all that is known of them. Its methods may be
// called from any goroutine.
type Group struct {
	cfg     Config
	log     hclog.Logger
	own     *transport // nil: the transport is the caller's
	shards  atomic.Pointer[[]*shard]
	changed chan struct{} // closed when there are leaves for the first time

	latencies *latencies
	hedges    *budget
	retries   *budget
	slots     *semaphore.Weighted // requests
	smalls    *semaphore.Weighted // partial answers of up to small bytes
	larges    *semaphore.Weighted // bytes of others
	blocks    blocks
	counts    counts

	work sync.WaitGroup // goroutines that ask leaves

	mu     sync.Mutex
	leaves map[string]*leaf // by ID
	again  *time.Timer      // until shards are given up; nil: there were none
}

// counts are what has happened since the beginning.
type counts struct {
	requests, shed, short                         atomic.Uint64
	asked, hedged, hedgeWon, hedgeDenied, retried atomic.Uint64
	retryDenied, ejected                          atomic.Uint64
}

// New makes a group without leaves. Close has to be called.
func New(cfg Config) (*Group, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Group{
		cfg: cfg, log: cfg.Logger, changed: make(chan struct{}), leaves: map[string]*leaf{},
		latencies: newLatencies(cfg.HedgeQuantile),
		hedges:    newBudget(cfg.HedgeBudget, 0),
		retries:   newBudget(cfg.RetryBudget, retryFloor), // negative: without tokens
		slots:     semaphore.NewWeighted(int64(cfg.MaxInFlight)),
		smalls:    semaphore.NewWeighted(max(cfg.Memory/2/small, 1)),
		larges:    semaphore.NewWeighted(max(cfg.Memory/2, cfg.MaxPartial)),
		blocks:    blocks{most: max(cfg.Memory/2, cfg.MaxPartial)},
	}
	g.shards.Store(&[]*shard{})
	if cfg.Transport == nil {
		g.own = newTransport()
		g.cfg.Transport = g.own
	}
	return g, nil
}

// Memory is how many bytes answers that wait to be merged may have in all.
func (g *Group) Memory() int64 { return g.cfg.Memory }

// Close waits until nothing is asked any more, and gives the connections back. Requests
// have to be ended by their contexts.
func (g *Group) Close() {
	g.mu.Lock()
	if g.again != nil {
		g.again.Stop()
	}
	g.mu.Unlock()
	g.work.Wait()
	if g.own != nil {
		g.own.retain(map[string]bool{})
	}
}

// ErrNoLeaves says that there is nobody to ask.
var ErrNoLeaves = errors.New("no leaves")

// Update says which leaves there are from now on. Requests that have begun go on with
// those that there were. No leaves at all are not believed: the last ones stay, and it is
// found out by asking them whether they are there.
func (g *Group) Update(list []Leaf) {
	if len(list) == 0 && len(*g.shards.Load()) > 0 {
		g.log.Warn("the catalog has no leaves any more: those that it had are asked", "service", g.cfg.Name)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	leaves := make(map[string]*leaf, len(list))
	byName := map[string]*shard{}
	var shards []*shard
	for _, l := range list {
		if leaves[l.ID] != nil {
			continue
		}
		known := g.leaves[l.ID]
		if known == nil || known.Leaf != l {
			known = &leaf{Leaf: l}
		}
		leaves[l.ID] = known
		s := byName[l.Shard]
		if s == nil {
			s = &shard{name: l.Shard}
			byName[l.Shard] = s
			shards = append(shards, s)
		}
		s.replicas = append(s.replicas, known)
	}
	shards = append(shards, g.vanished(byName, leaves)...)
	if len(leaves) > 0 {
		shards = append(shards, g.absent(shards)...)
	}
	slices.SortFunc(shards, func(a, b *shard) int { return compareNames(a.name, b.name) })
	for _, s := range shards {
		slices.SortFunc(s.replicas, func(a, b *leaf) int { return strings.Compare(a.ID, b.ID) })
	}
	first := len(g.leaves) == 0 && len(leaves) > 0
	g.leaves = leaves
	g.shards.Store(&shards)
	if g.own != nil {
		addresses := make(map[string]bool, len(leaves))
		for _, l := range leaves {
			addresses[l.Address] = true
		}
		g.own.retain(addresses)
	}
	if first {
		close(g.changed)
	}
}

// vanished are shards that have no leaf in the catalog any more, with those that they had,
// which are added to leaves. Perhaps all have failed their checks, or are between two
// versions; without them an answer would seem to be whole. Only after a while it is believed
// that there is one shard less.
func (g *Group) vanished(byName map[string]*shard, leaves map[string]*leaf) (list []*shard) {
	now := time.Now()
	for _, s := range *g.shards.Load() {
		if byName[s.name] != nil {
			continue
		}
		old := &shard{name: s.name, since: s.since}
		for _, l := range s.replicas {
			if leaves[l.ID] == nil { // otherwise it is of another shard now
				old.replicas = append(old.replicas, l)
			}
		}
		if len(old.replicas) == 0 {
			continue
		}
		if old.since.IsZero() {
			old.since = now
			g.log.Warn("a shard has no leaf in the catalog any more: those that it had are asked for a while", "service", g.cfg.Name, "shard", s.name)
			if g.again == nil {
				g.again = time.AfterFunc(keepVanished, g.forget)
			} else {
				g.again.Reset(keepVanished)
			}
		}
		if now.Sub(old.since) >= keepVanished {
			g.log.Warn("a shard is given up", "service", g.cfg.Name, "shard", s.name)
			continue
		}
		for _, l := range old.replicas {
			leaves[l.ID] = l
		}
		list = append(list, old)
	}
	return list
}

// absent are those that there have to be and that have no leaf. They count for as much as
// they had when they had one.
func (g *Group) absent(present []*shard) (list []*shard) {
	if len(g.cfg.Shards) == 0 {
		return nil
	}
	there := make(map[string]bool, len(present))
	for _, s := range present {
		there[s.name] = true
	}
	before := make(map[string]*shard, len(g.cfg.Shards))
	for _, s := range *g.shards.Load() {
		before[s.name] = s
	}
	var news []string
	for _, name := range g.cfg.Shards {
		if there[name] {
			continue
		}
		s, old := &shard{name: name}, before[name]
		if old != nil {
			s.behind = old.leaves()
		}
		if old == nil || len(old.replicas) > 0 {
			news = append(news, name)
		}
		list = append(list, s)
	}
	if len(news) > 0 {
		g.log.Warn("shards have no leaf in the catalog and are missing in answers", "service", g.cfg.Name, "shards", news[:min(len(news), maxNamed)], "number", len(news))
	}
	return list
}

// forget gives up shards that have been without a leaf for long.
func (g *Group) forget() {
	g.mu.Lock()
	list := make([]Leaf, 0, len(g.leaves))
	for _, s := range *g.shards.Load() {
		if s.since.IsZero() {
			for _, l := range s.replicas {
				list = append(list, l.Leaf)
			}
		}
	}
	g.mu.Unlock()
	if len(list) > 0 {
		g.Update(list)
	}
}

// Await waits until there are leaves.
func (g *Group) Await(ctx context.Context) error {
	select {
	case <-g.changed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("service %q: %w: %w", g.cfg.Name, ErrNoLeaves, ctx.Err())
	}
}
