package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/agents/elector/catalog"
	"github.com/nomad-patterns/nomad-patterns/agents/elector/hook"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// DefaultDataPrefix is where the keys of the kv route lie in Consul.
const DefaultDataPrefix = "election-data"

const (
	// maxWait bounds how long a PUT waits to lead.
	maxWait = 10 * time.Minute
	// giveUp bounds what is still done for a client that has gone, and what has to
	// wait for Consul without a limit of the client.
	giveUp = 10 * time.Second
	// refresh is how often a stream repeats what it said last, so that its age and
	// trust are fresh.
	refresh = 5 * time.Second
	// untag bounds how long a release waits for the catalog to lose the leader's tag.
	untag = 250 * time.Millisecond
	// drainers is how many elections are left at the same time in a drain.
	drainers = 32
)

// Config says what is served.
type Config struct {
	// Elector takes part. It stays the caller's to close, after the Server.
	Elector *election.Elector
	// Elections of the configuration.
	Elections []Election
	// Catalog tags the services of Elections. It may be nil if none has a service,
	// and stays the caller's to close, after the Elector.
	Catalog *catalog.Catalog
	// DataPrefix is where the keys of the kv route lie. Default DefaultDataPrefix.
	DataPrefix string
	// Logger is for what no client is told. Default: none.
	Logger hclog.Logger
}

// Election is an election of the configuration.
type Election struct {
	Name     string
	Mode     election.Mode // default: that of the Elector
	Priority int
	// OnDemand: not joined by New, but when a client asks for it, which is then as if it
	// were not configured, but for the mode, the service and the hooks.
	OnDemand bool
	// Service is tagged in Consul while it leads. Nil: none.
	Service *catalog.Service
	// OnGain and OnLoss are run when leadership begins and ends. Nil: nothing is.
	OnGain, OnLoss *hook.Command
}

// Server is the API. Its handlers may be used when New has returned.
type Server struct {
	elector    *election.Elector
	configured map[string]Election
	catalog    *catalog.Catalog
	dataPrefix string
	log        hclog.Logger

	mu       sync.Mutex
	joins    map[string]*join // by election; guarded by mu
	draining bool             // guarded by mu

	followers sync.WaitGroup // goroutines that wait for the end of candidates

	hooks    context.Context // of what runs after a loss
	endHooks context.CancelFunc

	refresh time.Duration // the constant, but in tests

	holds, watches atomic.Int64 // open streams
	hookFailures   [2]atomic.Uint64
}

// New makes a server and joins the elections of the configuration, but for those on
// demand. On an error the Elector may have joined some of them.
func New(cfg Config) (*Server, error) {
	if cfg.DataPrefix == "" {
		cfg.DataPrefix = DefaultDataPrefix
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	s := &Server{
		elector: cfg.Elector, catalog: cfg.Catalog, dataPrefix: cfg.DataPrefix, log: cfg.Logger,
		configured: make(map[string]Election, len(cfg.Elections)),
		joins:      make(map[string]*join, len(cfg.Elections)),
		refresh:    refresh,
	}
	s.hooks, s.endHooks = context.WithCancel(context.Background()) //nolint:gosec // Drain calls it
	for _, e := range cfg.Elections {
		if _, twice := s.configured[e.Name]; twice {
			return nil, fmt.Errorf("election %q is configured twice", e.Name)
		}
		if e.Service != nil && s.catalog == nil {
			return nil, fmt.Errorf("election %q has a service, and there is no catalog", e.Name)
		}
		s.configured[e.Name] = e
	}
	for _, e := range cfg.Elections {
		if e.OnDemand {
			continue
		}
		if _, err := s.join(context.Background(), e.Name, wish{}, byConfig); err != nil {
			return nil, fmt.Errorf("join election %q: %w", e.Name, err)
		}
	}
	return s, nil
}

// Routes calls handle for each route, with a pattern of [http.ServeMux].
func (s *Server) Routes(handle func(pattern string, h http.Handler)) {
	handle("PUT /v1/elections/{name}", named(bodiless(s.put)))
	handle("DELETE /v1/elections/{name}", named(bodiless(s.delete)))
	handle("GET /v1/elections/{name}", named(bodiless(s.status)))
	handle("GET /v1/elections", http.HandlerFunc(s.list))
	handle("POST /v1/elections/{name}/renew", named(bodiless(s.renew)))
	handle("GET /v1/elections/{name}/watch", named(bodiless(getOnly(s.watch))))
	handle("GET /v1/elections/{name}/hold", named(bodiless(getOnly(s.hold))))
	handle("POST /v1/elections/{name}/kv", named(s.kv))
}

// Ready says why this process cannot take part in elections; nil: it can.
func (s *Server) Ready() error {
	s.mu.Lock()
	draining := s.draining
	s.mu.Unlock()
	if draining {
		return errors.New("draining")
	}
	if h := s.elector.Health(); !h.Ready {
		return errors.New(h.Reason)
	}
	return nil
}

// Drain leaves all elections, so that others lead, and joins none any more. It
// returns when all are left and their hooks have run, or when ctx ends, and then hooks
// are killed. It may be called again.
func (s *Server) Drain(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.endHooks)()
	s.mu.Lock()
	s.draining = true
	all := make([]*join, 0, len(s.joins))
	for _, j := range s.joins {
		all = append(all, j)
	}
	s.mu.Unlock()

	var wg sync.WaitGroup
	errs := make([]error, len(all))
	slots := make(chan struct{}, drainers)
	for i, j := range all {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer func() { <-slots; wg.Done() }()
			if err := s.leave(ctx, j); err != nil {
				errs[i] = fmt.Errorf("leave election %q: %w", j.candidate.Name(), err)
			}
		}()
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.followers.Wait() // not long, for all candidates have ended
	return nil
}
