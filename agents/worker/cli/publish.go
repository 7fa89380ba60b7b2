package cli

import (
	"fmt"
	"strings"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/config"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/files"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/pool"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

func newPublish(p *agent.Program) *agent.Command {
	c := p.Command("publish [flags]", "Publish outputs of dead workers", `
Asks the broker about all attempts that workers have left at -output: publishes those that
were accepted and removes the others. Workers do the same at their start and every half
minute, so this is for a place where none will be started.

Exit codes: 0 done, 1 bad arguments, 2 failed, or there are outputs of which nobody knows
whether they have been accepted, because the broker has forgotten the items.`)
	get := config.Source(c.Flags, true)
	c.Do = func(args []string) error {
		if err := agent.Arguments(args); err != nil {
			return err
		}
		cfg, err := get(nil)
		if err != nil {
			return err
		}
		if cfg.Files.Output == "" {
			return agent.UsageErrorf("-output is missing")
		}
		return publish(p, cfg)
	}
	return c
}

func publish(p *agent.Program, cfg *config.Worker) error {
	ctx, stop := agent.UntilSignal()
	defer stop()
	client, err := queue.NewClient(cfg.Client)
	if err != nil {
		return err
	}
	defer closeClient(client, cfg.Client)
	places, err := files.New(ctx, cfg.Files)
	if err != nil {
		return err
	}
	done, err := pool.SweepOnce(ctx, client, cfg.Queue, places, 0, nil)
	if cerr := places.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(p.Out, "%d published, %d removed\n", done.Published, done.Removed); err != nil {
		return err
	}
	if len(done.Unsure) > 0 {
		return fmt.Errorf("nobody knows whether these attempts were accepted, and there are other outputs under their names: %s", strings.Join(done.Unsure, " "))
	}
	return nil
}
