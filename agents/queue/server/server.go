package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	queuepage "github.com/nomad-patterns/nomad-patterns/agents/queue/page"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// commitTimeout bounds what has to be stored before it is answered.
	commitTimeout = 15 * time.Second
	// leaderWait is how long a request waits for a shard to get a leader: longer than a
	// takeover takes, so that clients need not notice one.
	leaderWait = 5 * time.Second
	// leaderPause is between two looks at who leads.
	leaderPause = 20 * time.Millisecond
	// askTimeout bounds asking another broker what it knows.
	askTimeout = 3 * time.Second
)

// Broker is what is served: a *queue.Broker.
type Broker interface {
	Health() error
	Queues() []string
	Config(name string) (queue.Config, error)
	Create(ctx context.Context, name string, cfg queue.Config) (queue.Config, error)
	Delete(ctx context.Context, name string) error
	Leader(name string, shard int) string
	Led(name string) []int

	Enqueue(ctx context.Context, name string, shard int, items []queue.Item) ([]queue.Enqueued, error)
	Claim(ctx context.Context, name string, req queue.ClaimRequest) (queue.ClaimResponse, error)
	Ack(ctx context.Context, name string, shard int, acks []queue.Ack) ([]queue.AckResult, error)
	Extend(ctx context.Context, name string, e queue.Extend) (queue.Extended, error)
	Cancel(ctx context.Context, name string, shard int, ids []queue.ID) ([]queue.AckResult, error)
	Purge(ctx context.Context, name string, shard int) (int, error)
	Set(ctx context.Context, name string, shard int, f queue.Flag) error
	SetRecurring(ctx context.Context, name string, shard int, r queue.Recurring) error
	DeleteRecurring(ctx context.Context, name string, shard int, recurring string) error
	Recurring(ctx context.Context, name string, shard int) ([]queue.Schedule, error)
	Dead(ctx context.Context, name string, shard int, after uint64, most int) ([]queue.DeadLetter, error)
	Redrive(ctx context.Context, name string, shard int, ids []queue.ID) (int, error)
	Item(ctx context.Context, name string, id queue.ID) (queue.ItemStatus, error)
	Status(ctx context.Context, name string, shard int) (queue.Status, error)
	Wait(ctx context.Context, name string, shard int, sealed bool) error
}

// Config says what is served.
type Config struct {
	// Broker stays the caller's to close, before the Server.
	Broker Broker
	// Address is what other brokers are told of this one.
	Address string
	// PeerTLS and PeerToken are for requests to other brokers.
	PeerTLS   *tls.Config
	PeerToken string
	// Catalog shows in Consul which queues this broker leads. Nil: nothing is shown.
	Catalog Catalog
	Logger  hclog.Logger
}

// Server is the API. Its handlers may be used when New has returned.
type Server struct {
	broker   Broker
	address  string
	peers    *http.Client
	token    atomic.Pointer[string]
	catalog  Catalog
	log      hclog.Logger
	turn     atomic.Uint64 // of shards and brokers
	draining atomic.Bool
	history  *history
	pages    *queuepage.Pages
	counts   counts

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New makes a server, and starts to look after what changes by itself. Close ends that.
func New(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	pages, err := queuepage.New()
	if err != nil {
		return nil, err
	}
	s := &Server{
		broker: cfg.Broker, address: cfg.Address, catalog: cfg.Catalog, log: cfg.Logger,
		peers: &http.Client{
			Transport: agent.ClientTransport(cfg.PeerTLS),
			// A broker never sends anybody elsewhere, and the token must not go there.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		history: newHistory(), pages: pages, counts: newCounts(),
	}
	s.SetPeerToken(cfg.PeerToken)
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Go(func() { s.sample(ctx) })
	if s.catalog != nil {
		s.wg.Go(func() { s.register(ctx) })
	}
	return s, nil
}

// SetPeerToken replaces the token that other brokers are shown.
func (s *Server) SetPeerToken(token string) { s.token.Store(&token) }

// Drain makes what comes from now on be refused at once, so that clients go to another
// broker. The caller closes the Broker next.
func (s *Server) Drain() { s.draining.Store(true) }

// Close ends what New has started.
func (s *Server) Close() {
	s.cancel()
	s.wg.Wait()
	s.peers.CloseIdleConnections()
}

// Ready says why this broker cannot serve; nil: it can.
func (s *Server) Ready() error {
	if s.draining.Load() {
		return errors.New("draining")
	}
	return s.broker.Health()
}

// Routes calls handle for each route, with a pattern of [http.ServeMux].
func (s *Server) Routes(handle func(pattern string, h http.Handler)) {
	const q = "/v1/queues/{queue}"
	handle("GET /v1/queues", http.HandlerFunc(s.list))
	handle("GET "+q, s.named(s.status))
	handle("PUT "+q, s.named(s.create))
	handle("DELETE "+q, s.named(s.delete))
	handle("POST "+q+"/items", s.named(s.enqueue))
	handle("GET "+q+"/items/{id}", s.named(s.item))
	handle("POST "+q+"/claim", s.named(s.claim))
	handle("POST "+q+"/ack", s.named(s.acking(queue.Done)))
	handle("POST "+q+"/nack", s.named(s.acking(queue.Retry)))
	handle("POST "+q+"/extend", s.named(s.extend))
	handle("POST "+q+"/cancel", s.named(s.cancelItems))
	handle("GET "+q+"/dead", s.named(s.dead))
	handle("POST "+q+"/dead/redrive", s.named(s.redrive))
	for _, f := range []queue.Flag{queue.Pause, queue.Resume, queue.Seal} {
		handle("POST "+q+"/"+string(f), s.named(s.setting(f)))
	}
	handle("POST "+q+"/purge", s.named(s.purge))
	handle("GET "+q+"/recurring", s.named(s.recurring))
	handle("PUT "+q+"/recurring/{name}", s.named(s.setRecurring))
	handle("DELETE "+q+"/recurring/{name}", s.named(s.deleteRecurring))
	handle("GET "+q+"/wait", s.named(s.wait))
	handle("GET /{$}", http.HandlerFunc(s.indexPage))
	handle("GET /queues/{queue}", http.HandlerFunc(s.queuePage))
}
