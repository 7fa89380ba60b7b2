package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/internal/nomad"
	"github.com/nomad-patterns/nomad-patterns/agents/queue/config"
	"github.com/nomad-patterns/nomad-patterns/agents/queue/scale"
	"github.com/nomad-patterns/nomad-patterns/agents/queue/server"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// signOff bounds what is done in Consul after the drain.
	signOff = 3 * time.Second
	// createTimeout and createPause are for the queues of the configuration: Consul may
	// come later than this agent.
	createTimeout = 15 * time.Second
	createPause   = time.Second
)

func agentRunner() *agent.Runner[*config.Agent] {
	return &agent.Runner[*config.Agent]{
		Text: `
Runs a broker: it leads shards of queues, together with other brokers under the same prefix
in Consul, and serves the HTTP API, until SIGTERM or SIGINT. Then it gives its shards to
others and ends. SIGHUP reads the log level, certificates and tokens again.

Workers of stages with a scale block are started in Nomad, which is found by the variables
of its own tools, such as NOMAD_ADDR and NOMAD_TOKEN, or in a task by its socket.`,
		Source: config.AgentSource,
		Log:    func(cfg *config.Agent) agent.LogConfig { return cfg.Log },
		Valid: func(cfg *config.Agent) string {
			return "broker " + cfg.Broker.ID + ", " + plural(len(cfg.Queues), "queue")
		},
		Run: runAgent,
	}
}

// runAgent puts the parts together and runs until a signal has been obeyed or the context
// has ended.
func runAgent(ctx context.Context, cfg *config.Agent, log hclog.Logger, reload func(ctx context.Context) (*config.Agent, error)) (err error) {
	var srv *server.Server
	var broker *queue.Broker
	a, err := agent.New(ctx, agent.Options{
		Name: "queue", Version: agent.Version(), Listen: cfg.Listen, Logger: log, DrainTimeout: cfg.DrainTimeout,
		Ready: func() error { return srv.Ready() },
		Drain: func(ctx context.Context) error {
			srv.Drain()
			return broker.Close(ctx)
		},
		Reload: func(ctx context.Context) error {
			fresh, err := reload(ctx)
			if err == nil {
				srv.SetPeerToken(fresh.PeerToken)
			}
			return err
		},
	})
	if err != nil {
		return err
	}
	running := false
	defer func() {
		if !running {
			err = errors.Join(err, a.Close())
		}
	}()
	cfg.Broker.Logger, cfg.Broker.Address = log, cfg.Advertised(a.Addr())
	client, err := api.NewClient(cfg.Broker.Consul)
	if err != nil {
		return fmt.Errorf("use consul: %w", err)
	}
	commits := server.NewCommits()
	cfg.Broker.OnCommit = commits.Observe
	if broker, err = queue.NewBroker(cfg.Broker); err != nil {
		return err
	}
	services := server.NewServices(agent.ServicesConfig{Consul: client, Logger: log}, cfg.Broker.ID, broker.Elector().ServiceID(), cfg.Broker.Address)
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signOff)
		defer cancel()
		if failed := services.Close(ctx); failed != nil {
			log.Warn("sign off at consul; it forgets this broker by itself", "error", failed)
		}
	}()
	srv, err = server.New(server.Config{
		Broker: broker, Address: cfg.Broker.Address, PeerTLS: cfg.PeerTLS, PeerToken: cfg.PeerToken, Catalog: services, Logger: log,
	})
	if err != nil {
		return errors.Join(err, closeNow(broker))
	}
	defer srv.Close()
	for _, c := range append(srv.Collectors(), commits.Collectors()...) {
		if err := a.Metrics().Register(c); err != nil {
			return errors.Join(fmt.Errorf("register metrics: %w", err), closeNow(broker))
		}
	}
	srv.Routes(a.Handle)
	workers, err := nomad.NewClient()
	if err != nil {
		return errors.Join(err, closeNow(broker))
	}
	defer workers.Close()
	scaler := scale.New(scale.Config{Queues: queues{broker, srv}, Nomad: workers, Logger: log})
	beside, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	wg.Go(func() { makeQueues(beside, broker, cfg.Queues, log) })
	wg.Go(func() { scaler.Run(beside) })
	running = true
	return a.Run(ctx)
}

// queues is what the scaler looks at.
type queues struct {
	*queue.Broker
	srv *server.Server
}

// Total implements scale.Queues.
func (q queues) Total(ctx context.Context, name string) (queue.Status, error) {
	return q.srv.Total(ctx, name)
}

// closeNow ends a broker that has not served.
func closeNow(b *queue.Broker) error {
	ctx, cancel := context.WithTimeout(context.Background(), signOff)
	defer cancel()
	return b.Close(ctx)
}

// maker is what makeQueues needs of a broker.
type maker interface {
	Health() error
	Config(name string) (queue.Config, error)
	Create(ctx context.Context, name string, cfg queue.Config) (queue.Config, error)
}

// makeQueues makes those queues that are not there.
func makeQueues(ctx context.Context, b maker, queues []config.Queue, log hclog.Logger) {
	for len(queues) > 0 && ctx.Err() == nil {
		q := queues[0]
		err := b.Health() // before that it is not known what is there
		if err == nil {
			if _, err = b.Config(q.Name); errors.Is(err, queue.ErrUnknownQueue) {
				once, cancel := context.WithTimeout(ctx, createTimeout)
				if _, err = b.Create(once, q.Name, q.Config); err == nil {
					log.Info("queue made", "queue", q.Name)
				}
				cancel()
			}
		}
		if err == nil {
			queues = queues[1:]
			continue
		}
		log.Debug("a queue of the configuration cannot be made yet; trying on", "queue", q.Name, "error", err)
		t := time.NewTimer(createPause)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}
