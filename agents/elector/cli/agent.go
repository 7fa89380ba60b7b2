package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/agents/elector/catalog"
	"github.com/nomad-patterns/nomad-patterns/agents/elector/config"
	"github.com/nomad-patterns/nomad-patterns/agents/elector/server"
	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/election"
)

const (
	// maxBody is the largest body of a request, in bytes: that of a transaction that
	// Consul takes.
	maxBody = 512 << 10
	// signOff bounds what is done in Consul after the drain.
	signOff = 3 * time.Second
)

func agentRunner() *agent.Runner[*config.Agent] {
	return &agent.Runner[*config.Agent]{
		Text: `
Runs the elector: it takes part in elections for other programs and serves its HTTP API
to them, until SIGTERM or SIGINT. Then it gives all leaderships away and ends. SIGHUP
reads the log level and the API's certificates and token again, Consul's token not.`,
		Source: config.AgentSource,
		Log:    func(cfg *config.Agent) agent.LogConfig { return cfg.Log },
		Valid: func(cfg *config.Agent) string {
			return fmt.Sprintf("candidate %s, %d elections", cfg.Election.ID, len(cfg.Elections))
		},
		Run: func(ctx context.Context, cfg *config.Agent, log hclog.Logger, reload func(context.Context) (*config.Agent, error)) error {
			return cfg.Explain(runAgent(ctx, cfg, log, func(ctx context.Context) error {
				_, err := reload(ctx)
				return err
			}))
		},
	}
}

// runAgent puts the parts together and runs until a signal has been obeyed or the
// context has ended.
func runAgent(ctx context.Context, cfg *config.Agent, log hclog.Logger, reload func(context.Context) error) (err error) {
	var srv *server.Server
	a, err := agent.New(ctx, agent.Options{
		Name: "elector", Version: agent.Version(), Listen: cfg.Listen, Logger: log,
		MaxBody: maxBody, DrainTimeout: cfg.DrainTimeout, Reload: reload,
		Ready: func() error { return srv.Ready() },
		Drain: func(ctx context.Context) error { return srv.Drain(ctx) },
	})
	if err != nil {
		return err
	}
	defer func() {
		if srv == nil { // not run
			err = errors.Join(err, a.Close())
		}
	}()
	cfg.Election.Logger = log
	e, err := election.New(cfg.Election)
	if err != nil {
		return err
	}
	var tags *catalog.Catalog
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signOff)
		defer cancel()
		failed := e.Close(ctx)
		if tags != nil {
			failed = errors.Join(failed, tags.Close(ctx))
		}
		if failed != nil {
			log.Warn("sign off at consul; it forgets this elector by itself", "error", failed)
		}
	}()
	client, err := api.NewClient(cfg.Election.Consul)
	if err != nil {
		return fmt.Errorf("use consul: %w", err)
	}
	tags = catalog.New(catalog.Config{Consul: client, ID: cfg.Election.ID, Alias: e.ServiceID(), Logger: log})
	made, err := server.New(server.Config{
		Elector: e, Elections: cfg.Elections, Catalog: tags, DataPrefix: cfg.DataPrefix, Logger: log,
	})
	if err != nil {
		return err
	}
	if err := a.Metrics().Register(made.Collector()); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	made.Routes(a.Handle)
	srv = made
	return a.Run(ctx)
}
