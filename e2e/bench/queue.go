package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/queue/rig"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// QueueConfig says how much is measured.
type QueueConfig struct {
	// Items of each throughput run; the peers get a sixth, which takes them as long.
	// Default 300,000.
	Items int
	// Rounds of each, of which the median counts. Default 3.
	Rounds int
	// Depth of the deep queue. Default 1,000,000.
	Depth int
	// Trials of a takeover. Default 50.
	Trials int
	// Faults of the chaos run, with 500 items each. Default 150.
	Faults int
	// Profile is a file for a CPU profile of the broker. Default: none.
	Profile string
	// Out gets the results, Progress a line per step for a person.
	Out, Progress io.Writer
}

func (c QueueConfig) withDefaults() QueueConfig {
	for _, d := range []struct {
		value  *int
		preset int
	}{{&c.Items, 300_000}, {&c.Rounds, 3}, {&c.Depth, 1_000_000}, {&c.Trials, 50}, {&c.Faults, 150}} {
		if *d.value == 0 {
			*d.value = d.preset
		}
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	return c
}

const (
	// queueConns is the number of connections of every throughput run.
	queueConns = 64
	// queuePayload is the size of an item, in bytes.
	queuePayload = 200
	// profileAddr is where the broker serves its profile, if one is wanted.
	profileAddr = "127.0.0.1:14051"
	// queueName is the queue of the runs.
	queueName = "bench"
)

// queueBench is a run of the benchmark.
type queueBench struct {
	QueueConfig
	dir    string // for programs
	broker string // program
}

// Queues are the parts of the benchmark of the work queue by name, in the order in which
// they run. All but chaos use one Consul server with its data on disk.
//
//   - items: raw Consul PUT/s, and no-op items/s through enqueue, claim and ack.
//   - peers: the same kind of items through asynq and beanstalkd with durable settings.
//   - files: a worker that runs a program on small files.
//   - latency: from enqueue to claimed, at low load.
//   - depth: claims and memory at a thousand and a million items.
//   - takeover: from the kill of a broker to the next claim.
//   - chaos: items with real files under faults at random.
func Queues() []string {
	return []string{"items", "peers", "files", "latency", "depth", "takeover", "chaos"}
}

// Queue runs a part of the benchmark.
func Queue(ctx context.Context, part string, cfg QueueConfig) (err error) {
	b := &queueBench{QueueConfig: cfg.withDefaults()}
	if b.dir, err = os.MkdirTemp("", "np-bench"); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.broker, err = rig.Build(ctx, b.dir, "agents/queue"); err != nil {
		return err
	}
	run := map[string]func(context.Context) error{
		"items": b.items, "peers": b.peers, "files": b.files, "latency": b.latency, "depth": b.depth, "takeover": b.takeover, "chaos": b.chaos,
	}[part]
	if run == nil {
		return fmt.Errorf("queue: there is no part %q, only %q", part, Queues())
	}
	if err := run(ctx); err != nil {
		return fmt.Errorf("queue: %s: %w", part, err)
	}
	return nil
}

// say writes a line for a person.
func (b *queueBench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.Progress, format+"\n", args...)
}

// print writes results.
func (b *queueBench) print(format string, args ...any) error {
	if _, err := fmt.Fprintf(b.Out, format+"\n", args...); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// consul runs something on a fresh Consul of one server.
func (b *queueBench) consul(ctx context.Context, run func(*cluster.Consul) error) (err error) {
	c, err := cluster.StartConsul(ctx, cluster.ConsulConfig{Progress: b.Progress, LogLevel: "WARN"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	return run(c)
}

// startBroker starts a broker process beside Consul.
func (b *queueBench) startBroker(ctx context.Context, c *cluster.Consul, id string) (*rig.Broker, error) {
	cfg := rig.BrokerConfig{Consul: c, Binary: b.broker, ID: id, Prefix: "queue", Agent: c.ServerAddr(0), Plain: true}
	if b.Profile != "" {
		cfg.Management = profileAddr
	}
	br, err := rig.NewBroker(cfg)
	if err != nil {
		return nil, err
	}
	if err := br.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := br.AwaitReady(ctx); err != nil {
		return nil, errors.Join(err, br.Close())
	}
	return br, nil
}

// withBroker runs something on a Consul with a broker that leads the queue.
func (b *queueBench) withBroker(ctx context.Context, cfg queue.Config, run func(*cluster.Consul, *rig.Broker, *queue.Client) error) error {
	return b.consul(ctx, func(c *cluster.Consul) (err error) {
		br, err := b.startBroker(ctx, c, "b0")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, br.Close()) }()
		client, err := queue.NewClient(queue.ClientConfig{Addresses: []string{br.Address()}})
		if err != nil {
			return err
		}
		defer client.Close()
		if err := makeQueue(ctx, client, cfg); err != nil {
			return err
		}
		return run(c, br, client)
	})
}

// makeQueue makes the queue and waits until it has a leader.
func makeQueue(ctx context.Context, client *queue.Client, cfg queue.Config) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := client.Create(ctx, queueName, cfg); err != nil {
		return err
	}
	return until(ctx, func() error {
		_, err := client.Status(ctx, queueName)
		return err
	})
}

// payload is the input of an item of so many bytes, about; no two are the same.
func payload(i, size int) string {
	text := fmt.Sprintf("s3://bucket/documents/%09d/", i)
	return text + strings.Repeat("x", max(0, size-len(text)))
}

// chaos is the chaos run of the e2e tests, longer.
func (b *queueBench) chaos(ctx context.Context) (err error) {
	worker, err := rig.Build(ctx, b.dir, "e2e/queue/worker")
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "files")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	c, err := cluster.StartConsul(ctx, cluster.ConsulConfig{Servers: 3, Clients: 2, Progress: b.Progress})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	r, err := rig.Chaos(ctx, rig.ChaosConfig{
		Consul: c, BrokerBinary: b.broker, WorkerBinary: worker, Dir: dir, Shards: 2, Items: 500 * b.Faults, Faults: b.Faults,
		Seed: uint64(time.Now().UnixNano()), Progress: b.Progress,
	})
	if err != nil {
		return err
	}
	for _, problem := range r.Problems {
		if err := b.print("# PROBLEM: %s", problem); err != nil {
			return err
		}
	}
	total := 0
	for _, n := range r.Faults {
		total += n
	}
	err = b.print("# queue.chaos: faults %v; %d processes of workers, %d attempts, verdicts %v\n"+
		"bench queue.chaos.items %d count\nbench queue.chaos.faults %d count\nbench queue.chaos.problems %d count",
		r.Faults, r.Processes, r.Attempts, r.Verdicts, r.Items, total, len(r.Problems))
	if err == nil && len(r.Problems) > 0 {
		err = fmt.Errorf("%d problems", len(r.Problems))
	}
	return err
}
