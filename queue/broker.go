package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/election"
)

// BrokerConfig says who a broker is.
type BrokerConfig struct {
	// Consul says where the agent is. Default: api.DefaultConfig, which reads the
	// CONSUL_* environment.
	Consul *api.Config
	// Prefix of all keys in Consul's KV. Default "queue".
	Prefix string
	// ID is the name of this broker, unique under the prefix. Default: host name and
	// process ID.
	ID string
	// Address at which others reach it, told to whoever asks for the leader of a
	// shard.
	Address string
	// TTL after which Consul gives up a broker that has died. Default 1.5 s.
	TTL time.Duration
	// Service is the Consul service that carries the check that the broker lives.
	// Default "queue-broker".
	Service string
	// OnCommit is told of each transaction with Consul: how long it took, how many keys it
	// wrote, and why it failed. It must not block. Optional.
	OnCommit func(took time.Duration, keys int, err error)
	Logger   hclog.Logger
}

// Broker takes part in the election of a leader for each shard of each queue, and serves
// those that it leads. Its methods may be called from any goroutine.
type Broker struct {
	cfg     BrokerConfig
	log     hclog.Logger
	client  *api.Client
	pool    *http.Transport
	elector *election.Elector
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	turn    atomic.Uint64 // of shards

	mu      sync.Mutex
	queues  map[string]*brokerQueue
	known   bool          // the configurations were read
	changed chan struct{} // closed and replaced when queues changes
	trouble string        // why they cannot be read
}

type brokerQueue struct {
	name   string
	cfg    Config
	index  uint64 // of the configuration
	shards []*brokerShard
}

type brokerShard struct {
	cand   *election.Candidate
	cancel context.CancelFunc
	ended  chan struct{}

	mu   sync.Mutex
	cfg  Config
	term *term // nil: this broker does not lead, or has not read the shard yet
	// trouble is why the shard cannot be read.
	trouble string
}

// NotLeaderError says who leads.
type NotLeaderError struct {
	Queue  string
	Shard  int
	Leader string // its address; empty: nobody, as far as is known
	Reason string // why this broker, which should lead, does not; empty: it should not
}

func (e *NotLeaderError) Error() string {
	if e.Reason != "" {
		return fmt.Sprintf("queue %q: shard %d cannot be led: %s", e.Queue, e.Shard, e.Reason)
	}
	if e.Leader == "" {
		return fmt.Sprintf("queue %q: shard %d has no leader at the moment", e.Queue, e.Shard)
	}
	return fmt.Sprintf("queue %q: shard %d is led by the broker at %s", e.Queue, e.Shard, e.Leader)
}

// Is makes it an ErrNotLeader.
func (e *NotLeaderError) Is(err error) bool { return err == ErrNotLeader }

// NewBroker starts a broker. It needs no network: until Consul answers it leads nothing.
func NewBroker(cfg BrokerConfig) (*Broker, error) {
	if cfg.Consul == nil {
		cfg.Consul = api.DefaultConfig()
	}
	setDefault(&cfg.Prefix, "queue")
	setDefault(&cfg.Service, "queue-broker")
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	if err := election.CheckPrefix(cfg.Prefix); err != nil {
		return nil, err
	}
	own := *cfg.Consul
	own.Transport = &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		MaxConnsPerHost:     maxConns,
		MaxIdleConnsPerHost: maxConns,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 5 * time.Second,
		ForceAttemptHTTP2:   true,
	}
	if path, unix := strings.CutPrefix(own.Address, "unix://"); unix {
		own.Address = "localhost"
		own.Transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "unix", path)
		}
	}
	own.HttpClient = nil
	client, err := api.NewClient(&own)
	if err != nil {
		return nil, fieldErrorf("consul", "%v", err)
	}
	elector, err := election.New(election.Config{
		Consul: cfg.Consul, Prefix: cfg.Prefix + "/leader", ID: cfg.ID, Address: cfg.Address, TTL: cfg.TTL,
		// Whatever a broker writes is fenced by its lock, so nobody has to wait.
		Mode: election.Fenced, Service: cfg.Service, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	b := &Broker{
		cfg: cfg, log: cfg.Logger, client: client, pool: own.Transport, elector: elector,
		queues: map[string]*brokerQueue{}, changed: make(chan struct{}),
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.wg.Go(b.watch)
	return b, nil
}

// maxConns is how many connections a broker has to its Consul agent, besides those of its
// Elector: the watch of configurations, and commits and reads of shards.
const maxConns = 16

// Elector is what the broker takes part in elections with.
func (b *Broker) Elector() *election.Elector { return b.elector }

func (b *Broker) configKey(queue string) string { return b.cfg.Prefix + "/config/" + queue }

func (b *Broker) dataKey(queue string, shard int) string {
	return b.cfg.Prefix + "/data/" + queue + "/" + strconv.Itoa(shard) + "/"
}

// watchWait is how long Consul holds a blocking query.
const watchWait = time.Minute

// watch follows the configurations of all queues.
func (b *Broker) watch() {
	root := b.cfg.Prefix + "/config/"
	var index uint64
	for try := 0; b.ctx.Err() == nil; {
		ctx, cancel := context.WithTimeout(b.ctx, watchWait+watchWait/16+5*time.Second)
		pairs, meta, err := b.client.KV().List(root, (&api.QueryOptions{WaitIndex: index, WaitTime: watchWait}).WithContext(ctx))
		cancel()
		if b.ctx.Err() != nil {
			return
		}
		if err != nil {
			try++
			index = 0
			b.note(fmt.Errorf("read configurations: %w", err))
			pause(b.ctx, min(2*time.Second, 50*time.Millisecond<<min(try, 10)))
			continue
		}
		try = 0
		b.note(nil)
		if meta.LastIndex < index {
			index = 0 // Consul went back in time
			continue
		}
		index = max(1, meta.LastIndex)
		b.reconcile(root, pairs)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// note keeps the last trouble, and logs a new one.
func (b *Broker) note(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.trouble
	b.trouble = ""
	if err != nil {
		b.trouble = err.Error()
		if was == "" {
			b.log.Warn("trouble with consul", "error", err)
		}
	}
}

// reconcile takes what the watch has seen.
func (b *Broker) reconcile(root string, pairs api.KVPairs) {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := map[string]bool{}
	for _, p := range pairs {
		name := strings.TrimPrefix(p.Key, root)
		var cfg Config
		err := CheckName("queue", name)
		if err == nil {
			err = json.Unmarshal(p.Value, &cfg)
		}
		if err == nil {
			cfg, err = cfg.WithDefaults()
		}
		q := b.queues[name]
		if err == nil && q != nil {
			err = q.cfg.changeable(cfg)
		}
		if err != nil {
			// Somebody has written it by hand. What is known goes on.
			b.log.Error("bad configuration", "key", p.Key, "error", err)
			seen[name] = q != nil
			continue
		}
		seen[name] = true
		if q == nil {
			q = &brokerQueue{name: name}
			b.queues[name] = q
			for k := range cfg.Shards {
				b.join(q, k, cfg)
			}
		}
		if q.index != p.ModifyIndex {
			q.cfg, q.index = cfg, p.ModifyIndex
			for _, sh := range q.shards {
				sh.configure(cfg)
			}
		}
	}
	for name, q := range b.queues {
		if !seen[name] {
			delete(b.queues, name)
			b.wg.Go(func() { q.leave() })
		}
	}
	b.known = true
	close(b.changed)
	b.changed = make(chan struct{})
}

// join takes part in the election of a shard's leader.
func (b *Broker) join(q *brokerQueue, number int, cfg Config) {
	sh := &brokerShard{cfg: cfg, ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(b.ctx)
	sh.cancel = cancel
	q.shards = append(q.shards, sh)
	name := q.name + "." + strconv.Itoa(number)
	b.wg.Go(func() {
		defer close(sh.ended)
		defer cancel()
		var err error
		for {
			// A queue that was deleted and made again: the old candidate leaves first.
			if sh.cand, err = b.elector.Join(name, election.Options{}); !errors.Is(err, election.ErrJoined) {
				break
			}
			if pause(ctx, 50*time.Millisecond); ctx.Err() != nil {
				return
			}
		}
		if err != nil {
			b.log.Error("cannot take part", "queue", q.name, "shard", number, "error", err)
			return
		}
		log := b.log.With("queue", q.name, "shard", number)
		for ctx.Err() == nil {
			err = sh.cand.Run(ctx, func(ctx context.Context, l *election.Leadership) error {
				t := newTerm(l, b.client, b.dataKey(q.name, number), log)
				t.onCommit = b.cfg.OnCommit
				return sh.lead(ctx, t, q.name, number)
			})
			if ctx.Err() == nil && sh.cand.Err() != nil {
				log.Error("no candidate any more", "error", err)
				return
			}
		}
		left, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_ = sh.cand.Leave(left) // it goes on leaving if that took too long
	})
}

// lead serves the shard for a term.
func (sh *brokerShard) lead(ctx context.Context, t *term, queue string, number int) error {
	sh.mu.Lock()
	cfg := sh.cfg
	sh.mu.Unlock()
	defer func() {
		sh.mu.Lock()
		sh.term, sh.trouble = nil, ""
		sh.mu.Unlock()
	}()
	return t.run(ctx, queue, number, cfg, func() {
		sh.mu.Lock()
		sh.term, sh.trouble = t, ""
		cfg := sh.cfg
		sh.mu.Unlock()
		t.reconfigure(cfg)
	}, func(err error) {
		sh.mu.Lock()
		sh.term, sh.trouble = nil, err.Error()
		sh.mu.Unlock()
	})
}

// configure takes another configuration.
func (sh *brokerShard) configure(cfg Config) {
	sh.mu.Lock()
	sh.cfg = cfg
	t := sh.term
	sh.mu.Unlock()
	if t != nil {
		t.reconfigure(cfg)
	}
}

// reconfigure gives the loop a configuration; only the last one counts.
func (t *term) reconfigure(cfg Config) {
	for {
		select {
		case t.config <- cfg:
			return
		case <-t.config:
		}
	}
}

// leave ends the shards of a queue that is no more.
func (q *brokerQueue) leave() {
	for _, sh := range q.shards {
		sh.cancel()
	}
	for _, sh := range q.shards {
		<-sh.ended
	}
}

// Close gives all shards to others, and ends the broker. Requests under way are answered
// with ErrNotLeader.
func (b *Broker) Close(ctx context.Context) error {
	b.cancel()
	done := make(chan struct{})
	go func() { b.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	err := b.elector.Close(ctx)
	<-done // what remained has ended with the elector
	b.pool.CloseIdleConnections()
	return err
}

// Health says why the broker cannot serve, nil if it can.
func (b *Broker) Health() error {
	b.mu.Lock()
	known, trouble := b.known, b.trouble
	b.mu.Unlock()
	if h := b.elector.Health(); !h.Ready {
		return errors.New(h.Reason)
	}
	if trouble != "" || !known {
		return errors.New(cmpOr(trouble, "the configurations have not been read yet"))
	}
	return nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Queues returns the names of all queues.
func (b *Broker) Queues() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.queues))
}

// Config returns the configuration of a queue. The error is ErrUnknownQueue.
func (b *Broker) Config(queue string) (Config, error) {
	q, err := b.queue(queue)
	if err != nil {
		return Config{}, err
	}
	return q.cfg, nil
}

func (b *Broker) queue(name string) (brokerQueue, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queues[name]
	if q == nil {
		return brokerQueue{}, fmt.Errorf("queue %q: %w", name, ErrUnknownQueue)
	}
	return *q, nil
}

// term returns the present term of a shard. The error is ErrUnknownQueue or a
// *NotLeaderError.
func (b *Broker) term(queue string, shard int) (*term, error) {
	q, err := b.queue(queue)
	if err != nil {
		return nil, err
	}
	if shard < 0 || shard >= len(q.shards) {
		return nil, fieldErrorf("shard", "queue %q has the shards 0 to %d, and not %d", queue, len(q.shards)-1, shard)
	}
	sh := q.shards[shard]
	sh.mu.Lock()
	t, trouble := sh.term, sh.trouble
	sh.mu.Unlock()
	if t != nil {
		return t, nil
	}
	return nil, &NotLeaderError{queue, shard, b.Leader(queue, shard), trouble}
}

// Leads says whether this broker leads a shard.
func (b *Broker) Leads(queue string, shard int) bool {
	_, err := b.term(queue, shard)
	return err == nil
}

// Leader returns the address of the broker that leads a shard, or "".
func (b *Broker) Leader(queue string, shard int) string {
	st, err := b.elector.Status(queue + "." + strconv.Itoa(shard))
	if err != nil || st.Leader == nil || st.Self {
		return ""
	}
	return st.Leader.Address
}

// ShardFor is where an item belongs: those with the same group, or else the same key, lie
// in the same shard. Those without either go to any; n makes them take turns.
func ShardFor(it *Item, shards int, n uint64) int {
	text := cmpOr(it.Group, it.Key)
	if text != "" {
		h := fnv.New64a()
		_, _ = h.Write([]byte(text)) // it never fails
		n = h.Sum64()
	}
	return int(n % uint64(max(1, shards))) //nolint:gosec // below MaxShards
}

// Create makes a queue, or changes it, and returns its configuration with defaults. It
// returns when this broker knows of it. The error can be a *FieldError.
func (b *Broker) Create(ctx context.Context, name string, cfg Config) (Config, error) {
	if err := CheckName("queue", name); err != nil {
		return cfg, err
	}
	cfg, err := cfg.WithDefaults()
	if err != nil {
		return cfg, err
	}
	raw, err := json.MarshalIndent(cfg, "", "  ")
	if err != nil {
		return cfg, err
	}
	key := b.configKey(name)
	for range 10 {
		old, _, err := b.client.KV().Get(key, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
		if err != nil {
			return cfg, fmt.Errorf("read configuration: %w", err)
		}
		pair := &api.KVPair{Key: key, Value: raw}
		if old != nil {
			var was Config
			if json.Unmarshal(old.Value, &was) == nil {
				if was, err = was.WithDefaults(); err == nil {
					if err := was.changeable(cfg); err != nil {
						return cfg, err
					}
				}
			}
			if string(old.Value) == string(raw) {
				return cfg, b.await(ctx, func(q *brokerQueue) bool { return q != nil && q.index >= old.ModifyIndex }, name)
			}
			pair.ModifyIndex = old.ModifyIndex
		}
		ok, _, err := b.client.KV().CAS(pair, (&api.WriteOptions{}).WithContext(ctx))
		if err != nil {
			return cfg, fmt.Errorf("write configuration: %w", err)
		}
		if ok {
			return cfg, b.await(ctx, func(q *brokerQueue) bool { return q != nil && q.index > pair.ModifyIndex }, name)
		}
	}
	return cfg, fmt.Errorf("queue %q: others are changing its configuration as well", name)
}

// Delete removes a queue with everything in it.
func (b *Broker) Delete(ctx context.Context, name string) error {
	q, err := b.queue(name)
	if err != nil {
		return err
	}
	if _, err := b.client.KV().Delete(b.configKey(name), (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("delete configuration: %w", err)
	}
	if err := b.await(ctx, func(q *brokerQueue) bool { return q == nil }, name); err != nil {
		return err
	}
	for _, sh := range q.shards {
		select {
		case <-sh.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	// Brokers that have not noticed yet fail with their next write, and then notice.
	if _, err := b.client.KV().DeleteTree(b.cfg.Prefix+"/data/"+name+"/", (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("delete items: %w", err)
	}
	return nil
}

// await waits until this broker's view of a queue is as it should be.
func (b *Broker) await(ctx context.Context, ok func(*brokerQueue) bool, name string) error {
	for {
		b.mu.Lock()
		good, changed := ok(b.queues[name]), b.changed
		b.mu.Unlock()
		if good {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("queue %q: the change is not known here yet: %w", name, context.Cause(ctx))
		case <-b.ctx.Done():
			return ErrNotLeader
		}
	}
}
