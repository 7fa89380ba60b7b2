package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/config"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/server"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/tracing"
)

func agentRunner() *agent.Runner[*config.Agent] {
	return &agent.Runner[*config.Agent]{
		Text: `
Runs a root: it asks all shards of Consul services at once, merges what they answer, and
serves that as routes of its HTTP API, until SIGTERM or SIGINT. Then it answers new requests
with 503, waits for those under way and ends. SIGHUP reads the log level, certificates and
the token again.

Traces go to a collector where OTEL_EXPORTER_OTLP_ENDPOINT names one.`,
		Source: config.AgentSource,
		Log:    func(cfg *config.Agent) agent.LogConfig { return cfg.Log },
		Valid: func(cfg *config.Agent) string {
			return "root " + cfg.ID + ", " + plural(len(cfg.Routes), "route")
		},
		Run: func(ctx context.Context, cfg *config.Agent, log hclog.Logger, reload func(context.Context) (*config.Agent, error)) error {
			return runAgent(ctx, cfg, log, func(ctx context.Context) error {
				_, err := reload(ctx)
				return err
			})
		},
	}
}

// runAgent puts the parts together and runs until a signal has been obeyed or the context
// has ended.
func runAgent(ctx context.Context, cfg *config.Agent, log hclog.Logger, reload func(context.Context) error) (err error) {
	var srv *server.Server
	var requests gate
	a, err := agent.New(ctx, agent.Options{
		Name: "scatter", Version: agent.Version(), Listen: cfg.Listen, Logger: log, DrainTimeout: cfg.DrainTimeout, Reload: reload,
		Ready: func() error { return srv.Ready() },
		Drain: requests.close,
	})
	if err != nil {
		return err
	}
	defer func() {
		if srv == nil { // not run
			err = errors.Join(err, a.Close())
		}
	}()
	client, err := api.NewClient(cfg.Consul)
	if err != nil {
		return fmt.Errorf("use consul: %w", err)
	}
	tracer, err := tracing.FromEnv(ctx, agent.Version(), cfg.ID, log)
	if err != nil {
		return err
	}
	defer func() {
		if failed := tracer.Close(); failed != nil { // nothing depends on the last traces
			log.Warn("send the last traces", "error", failed)
		}
	}()
	made, err := server.New(server.Config{
		ID: cfg.ID, Private: cfg.Listen.TokenFile.V != "", Address: a.Addr().String(), Consul: client, Tracer: tracer, Routes: cfg.Routes, Logger: log,
	})
	if err != nil {
		return err
	}
	defer func() {
		made.Close()
		err = errors.Join(err, closeMergers(cfg.Routes))
	}()
	defer tuneCollector(made.Memory())()
	for _, c := range made.Collectors() {
		if err := a.Metrics().Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	routes := make(map[string]bool, len(cfg.Routes)) // by pattern
	for _, r := range cfg.Routes {
		routes[r.Pattern] = true
	}
	made.Routes(func(pattern string, h http.Handler) {
		if routes[pattern] {
			h = requests.pass(h)
		}
		a.Handle(pattern, h)
	})
	srv = made
	return a.Run(ctx)
}

// closeMergers ends what mergers keep open.
func closeMergers(routes []server.Route) error {
	var errs []error
	for _, r := range routes {
		if c, is := r.Merger.(io.Closer); is {
			if err := c.Close(); err != nil {
				errs = append(errs, fmt.Errorf("close the merger of route %q: %w", r.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}
