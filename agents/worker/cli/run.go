package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/internal/nomad"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/attempt"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/config"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/dispatch"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/files"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/httpmode"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/pool"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/run"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// endMargin is how much longer than the drain timeout the end may take: to end programs
// and to give their items back.
const endMargin = run.DefaultGrace + 10*time.Second

func newRun(p *agent.Program) *agent.Command {
	c := p.Command("run [flags] -- <command> [argument…]", "Do the items of a queue", `
Claims items of a queue and runs a command for each, which reads the file $WQ_INPUT and
writes the file $WQ_OUTPUT. In the arguments the worker puts values in the place of $WQ_…;
the command finds them in its environment too:

  WQ_INPUT     path of the input; of a merge, a directory with 000001-…, 000002-…
  WQ_OUTPUT    path where the output has to be
  WQ_ITEM, WQ_CLAIM, WQ_QUEUE, WQ_STAGE, WQ_ATTR_<NAME>
  WQ_PROGRESS  file for a number from 0 to 1, for people to see
  WQ_EMIT      file for the items of the next stage, one JSON object a line

How the command ends: 0 done, 99 skipped, 65 rejected (a dead letter), any other code or
a signal: failed, again later. The last lines of its standard error are the reason.

"run" may be left out. In place of a command, -http asks a program that is running, and
-dispatch runs a job of Nomad for each item.

Settings are taken from flags, then from the environment, then from the files. SIGTERM,
SIGINT and POST /lifecycle/prestop at -listen drain: nothing more is claimed, and what is
not done within the drain timeout is given back. Allow 15 s more than that until a kill.

`+agent.ExitHelp)
	get := config.Source(c.Flags, false)
	validate := c.Flags.Bool("validate", false, "check the configuration, say what is wrong, and end")
	c.Do = func(args []string) error {
		cfg, err := get(args)
		if err != nil {
			return err
		}
		if *validate {
			_, err := fmt.Fprintf(p.Out, "The configuration is valid: worker %s of queue %s, %d slots.\n", cfg.ID, cfg.Queue, cfg.Slots)
			return err
		}
		log := agent.NewLogger(p.Name, cfg.Log.Level, cfg.Log.JSON, p.Err)
		return Run(context.Background(), cfg, p.Out, p.Err, log)
	}
	return c
}

// closer is a way that has something to end.
type closer interface{ Close() error }

// Run works until a signal or the end of ctx has been obeyed, or there is nothing more to
// do.
func Run(ctx context.Context, cfg *config.Worker, stdout, stderr io.Writer, log hclog.Logger) (err error) {
	client, err := queue.NewClient(cfg.Client)
	if err != nil {
		return err
	}
	defer closeClient(client, cfg.Client)
	way, err := newWay(cfg, stdout, stderr, log)
	if err != nil {
		return &agent.ConfigError{Problems: []string{err.Error()}}
	}
	if c, is := way.(closer); is {
		defer func() { err = errors.Join(err, c.Close()) }()
	}
	places, err := files.New(ctx, cfg.Files)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, places.Close()) }()
	p := pool.New(pool.Config{
		Broker: client, Files: places, Way: way, Queue: cfg.Queue, Stage: cfg.Stage, Worker: cfg.ID, Slots: cfg.Slots,
		NoOutput: cfg.NoOutput, IdleExit: cfg.IdleExit, UntilFinished: cfg.UntilFinished,
		DrainTimeout: cfg.DrainTimeout, Grace: run.DefaultGrace, Logger: log,
	})
	log.Info("working", "queue", cfg.Queue, "stage", cfg.Stage, "worker", cfg.ID, "slots", cfg.Slots)
	if cfg.Listen == nil {
		return alone(ctx, p)
	}
	return serve(ctx, p, cfg, log)
}

// closeClient gives the connections back, those of the transport that is ours too.
func closeClient(client *queue.Client, cfg queue.ClientConfig) {
	client.Close()
	if cfg.Transport != nil {
		cfg.Transport.CloseIdleConnections()
	}
}

// newWay makes the way that items are done. The error is the configuration's fault.
func newWay(cfg *config.Worker, stdout, stderr io.Writer, log hclog.Logger) (attempt.Way, error) {
	switch {
	case cfg.HTTP != "":
		return httpmode.New(httpmode.Config{URL: cfg.HTTP, Ready: cfg.HTTPReady})
	case cfg.Dispatch != "":
		client, err := nomad.NewClient()
		if err != nil {
			return nil, err
		}
		return dispatch.New(dispatch.Config{Nomad: client, Job: cfg.Dispatch, Logger: log}), nil
	}
	return run.New(run.Config{
		Command: cfg.Command, Alone: cfg.Slots == 1, Reap: true, Stdout: stdout, Stderr: stderr, Logger: log,
	})
}

// serve works with an HTTP API for people and for the lifecycle hooks.
func serve(ctx context.Context, p *pool.Pool, cfg *config.Worker, log hclog.Logger) error {
	a, err := agent.New(ctx, agent.Options{
		Name: "worker", Version: agent.Version(), Listen: *cfg.Listen, Logger: log, DrainTimeout: cfg.DrainTimeout + endMargin,
		Ready: p.Ready, Drain: p.Drain,
	})
	if err != nil {
		return err
	}
	for _, c := range p.Collectors() {
		if err := a.Metrics().Register(c); err != nil {
			return errors.Join(fmt.Errorf("register metrics: %w", err), a.Close())
		}
	}
	working, ended := context.WithCancel(ctx)
	result := make(chan error, 1)
	go func() {
		// Not ended by ctx itself: Drain gives items the time that they have.
		err := p.Run(context.WithoutCancel(ctx))
		select {
		case <-a.Draining(): // after a prestop hook the API is there until the end
		default:
			ended()
		}
		result <- err
	}()
	err = a.Run(working)
	ended()
	p.Stop()
	return errors.Join(err, <-result)
}

// alone works without an API.
func alone(ctx context.Context, p *pool.Pool) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	result := make(chan error, 1)
	go func() { result <- p.Run(context.WithoutCancel(ctx)) }()
	select {
	case err := <-result:
		return err
	case <-signals:
	case <-ctx.Done():
	}
	drain, cut := context.WithCancel(context.Background())
	defer cut()
	drained := make(chan error, 1)
	go func() { drained <- p.Drain(drain) }()
	for {
		select {
		case <-signals: // the second one: at once
			cut()
		case err := <-drained:
			if err != nil {
				err = fmt.Errorf("%w: %w", agent.ErrNotDrained, err)
			}
			return errors.Join(<-result, err)
		}
	}
}
