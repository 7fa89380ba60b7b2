package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/cli"
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

func newAgent(s streams) cli.Command {
	c := newCommand(s, "agent [flags]", "Run the agent", `
Runs the elector: it takes part in elections for other programs and serves its HTTP API
to them, until SIGTERM or SIGINT. Then it gives all leaderships away and ends. SIGHUP
reads the log level and the API's certificates and token again, Consul's token not.

Settings are taken from flags, then from the environment, then from the files.

`+agent.ExitHelp)
	var args []string // of the last Run
	get := config.AgentSource(c.flags)
	validate := c.flags.Bool("validate", false, "check the configuration, say what is wrong, and end")
	c.run = func(rest []string) error {
		if err := arguments(rest); err != nil {
			return err
		}
		cfg, err := get()
		if err != nil {
			return err
		}
		if *validate {
			_, err := fmt.Fprintf(s.out, "The configuration is valid: candidate %s, %d elections.\n", cfg.Election.ID, len(cfg.Elections))
			return err
		}
		log := agent.NewLogger("elector", cfg.LogLevel, cfg.LogJSON, s.err)
		err = runAgent(context.Background(), cfg, log, func(context.Context) error { return reload(args, log) })
		return cfg.Explain(err)
	}
	return &agentCommand{c, &args}
}

// agentCommand remembers its arguments, to read the configuration again.
type agentCommand struct {
	*command
	args *[]string
}

func (c *agentCommand) Run(args []string) int {
	*c.args = args
	return c.command.Run(args)
}

// reload takes from a changed configuration what can change while the agent runs.
func reload(args []string, log hclog.Logger) error {
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	get := config.AgentSource(fs)
	fs.Bool("validate", false, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	cfg, err := get()
	if err != nil {
		return err
	}
	log.SetLevel(cfg.LogLevel)
	return nil
}

// runAgent puts the parts together and runs until a signal has been obeyed or the
// context has ended.
func runAgent(ctx context.Context, cfg *config.Agent, log hclog.Logger, reload func(context.Context) error) (err error) {
	var srv *server.Server
	a, err := agent.New(ctx, agent.Options{
		Name: "elector", Version: version(), Listen: cfg.Listen, Logger: log,
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
