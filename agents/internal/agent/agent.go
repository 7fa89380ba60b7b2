package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of the HTTP server.
const (
	// DefaultMaxBody is the largest body of a request, in bytes.
	DefaultMaxBody = 1 << 20

	defaultDrainTimeout = 10 * time.Second
	defaultIOTimeout    = 10 * time.Second
	idleTimeout         = 2 * time.Minute // of a connection between requests
	maxHeader           = 64 << 10        // bytes of a request's header
	shutdownTimeout     = 2 * time.Second // for requests under way after the drain
)

// Options make an agent.
type Options struct {
	Name    string // of the agent, for example "elector"; begins the names of its metrics
	Version string
	Listen  Listen // checked
	Logger  hclog.Logger

	// Ready says why the agent is not ready, nil if it is. Optional.
	Ready func() error
	// Drain gives away what the agent does for others. It is called at most once: at
	// the first SIGTERM or SIGINT, at the end of Run's context, or at a prestop hook,
	// after which the agent is served on until it is ended. Its context ends after
	// DrainTimeout, or at a second signal. Optional.
	Drain func(ctx context.Context) error
	// Reload is called at SIGHUP, after certificate and token were read again.
	// Optional.
	Reload func(ctx context.Context) error

	DrainTimeout time.Duration // default 10 s
	MaxBody      int64         // bytes; default DefaultMaxBody
	// IOTimeout bounds the time to send a request's header, its body, and each
	// write of an answer. Default 10 s.
	IOTimeout time.Duration
}

// Agent is an HTTP server with a life. Handlers are added before Run.
type Agent struct {
	opts       Options
	log        hclog.Logger
	mux        *http.ServeMux
	registry   *prometheus.Registry
	requests   *prometheus.CounterVec
	access     access
	listener   net.Listener
	management net.Listener // nil if there is none

	drainOnce  sync.Once
	drainCut   context.CancelFunc // ends the drain's context
	drainCtx   context.Context
	draining   chan struct{} // closed when the drain has begun
	drained    chan struct{} // closed when it has ended
	drainErr   error         // set before drained is closed
	background sync.WaitGroup
	signals    chan os.Signal
}

// New listens at the addresses and for signals, and serves when Run is called; until
// then requests and signals wait. If Run is not called, Close has to be. The error is a
// *ConfigError if the options are to blame.
func New(ctx context.Context, opts Options) (*Agent, error) {
	var problems Problems
	opts.Listen.Check(&problems)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if opts.Logger == nil {
		opts.Logger = hclog.NewNullLogger()
	}
	if opts.DrainTimeout == 0 {
		opts.DrainTimeout = defaultDrainTimeout
	}
	if opts.MaxBody == 0 {
		opts.MaxBody = DefaultMaxBody
	}
	if opts.IOTimeout == 0 {
		opts.IOTimeout = defaultIOTimeout
	}
	a := &Agent{
		opts:     opts,
		log:      opts.Logger,
		mux:      http.NewServeMux(),
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: opts.Name + "_http_requests_total",
			Help: "Requests that were answered.",
		}, []string{"route", "code"}),
		draining: make(chan struct{}),
		drained:  make(chan struct{}),
		signals:  make(chan os.Signal, 4),
	}
	a.drainCtx, a.drainCut = context.WithCancel(context.Background())
	if err := a.access.load(&opts.Listen); err != nil {
		return nil, err
	}
	for _, c := range []prometheus.Collector{
		a.requests,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := a.registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	a.mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{Registry: a.registry}))
	a.mux.HandleFunc("GET "+healthPath, a.serveHealth)
	a.mux.HandleFunc("POST /lifecycle/prestop", a.servePrestop)

	mode, err := opts.Listen.mode()
	if err != nil {
		return nil, err
	}
	if a.listener, err = open(ctx, opts.Listen.Address.V, mode); err != nil {
		return nil, fmt.Errorf("listen at %s: %w", opts.Listen.Address.V, err)
	}
	if m := opts.Listen.Management.V; m != "" {
		if a.management, err = open(ctx, m, mode); err != nil {
			return nil, errors.Join(fmt.Errorf("listen at %s: %w", m, err), a.listener.Close())
		}
	}
	signal.Notify(a.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	return a, nil
}

// Handle adds a handler with a pattern of [http.ServeMux], for example
// "PUT /v1/elections/{name}".
func (a *Agent) Handle(pattern string, h http.Handler) { a.mux.Handle(pattern, h) }

// Metrics is where collectors are registered.
func (a *Agent) Metrics() prometheus.Registerer { return a.registry }

// Addr is the address of the HTTP API; the port is the real one.
func (a *Agent) Addr() net.Addr { return a.listener.Addr() }

// ManagementAddr is the address of pprof, or nil.
func (a *Agent) ManagementAddr() net.Addr {
	if a.management == nil {
		return nil
	}
	return a.management.Addr()
}

// Draining is closed when the agent begins to drain.
func (a *Agent) Draining() <-chan struct{} { return a.draining }

// Close ends the listening of an agent that is not run.
func (a *Agent) Close() error {
	signal.Stop(a.signals)
	a.drainCut()
	err := a.listener.Close()
	if a.management != nil {
		err = errors.Join(err, a.management.Close())
	}
	return err
}

// managementHandler serves pprof.
func managementHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
