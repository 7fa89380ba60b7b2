package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/queue/history"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// ChaosConfig says what a chaos run does.
type ChaosConfig struct {
	// Consul has at least three servers and a client agent for each broker.
	Consul *cluster.Consul
	// BrokerBinary and WorkerBinary are the programs.
	BrokerBinary, WorkerBinary string
	// Dir is for the inputs and outputs. It has to be empty.
	Dir string
	// Prefix of the keys in Consul. Default "chaos".
	Prefix string
	// Items, each of which is a file. Default 10,000.
	Items int
	// Faults that are injected while they are worked on. Default 30.
	Faults int
	// Brokers and Workers are their numbers. Defaults 2 and 6.
	Brokers, Workers int
	// Shards of the queue. Default 1.
	Shards int
	// Drain is how long the items may take after the last fault. Default 2 min.
	Drain time.Duration
	Seed  uint64
	// Progress gets a line for each fault. Default: discarded.
	Progress io.Writer
}

func (c ChaosConfig) withDefaults() ChaosConfig {
	for _, d := range []struct {
		value  *int
		preset int
	}{{&c.Items, 10_000}, {&c.Faults, 30}, {&c.Brokers, 2}, {&c.Workers, 6}, {&c.Shards, 1}} {
		if *d.value == 0 {
			*d.value = d.preset
		}
	}
	if c.Prefix == "" {
		c.Prefix = "chaos"
	}
	if c.Drain == 0 {
		c.Drain = 2 * time.Minute
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	return c
}

// Report is what a chaos run found.
type Report struct {
	Faults    map[string]int // by kind
	Items     int
	Attempts  int // that workers have seen
	Processes int // of workers
	Verdicts  map[queue.Verdict]int
	Status    queue.Status
	// Problems have to be empty.
	Problems []string
}

// chaosQueue is the queue of the run, chaosLease its lease.
const (
	chaosQueue = "files"
	chaosLease = 2 * time.Second
)

// chaos is a run.
type chaos struct {
	cfg     ChaosConfig
	client  *queue.Client
	log     *Log
	brokers []*slot[*Broker]
	workers []*slot[*Worker]
	rnd     *rand.Rand

	// consulMu lets only one fault hit Consul itself.
	consulMu sync.Mutex
	mu       sync.Mutex
	faults   map[string]int
	problems []string
	added    []history.Added
}

// slot lets only one fault hit a process.
type slot[T any] struct {
	it   T
	busy sync.Mutex
}

// Chaos puts files into a queue, lets workers make outputs of them while everything
// breaks now and then, and checks what came of it. An error means that the run itself
// failed.
func Chaos(ctx context.Context, cfg ChaosConfig) (*Report, error) {
	c := &chaos{cfg: cfg.withDefaults(), log: &Log{}, faults: map[string]int{}}
	c.rnd = rand.New(rand.NewPCG(cfg.Seed, 1))
	report, err := c.run(ctx)
	for _, w := range c.workers {
		err = errors.Join(err, w.it.Close())
	}
	if err == nil {
		c.check(report)
	}
	for _, b := range c.brokers {
		err = errors.Join(err, b.it.Close())
	}
	if c.client != nil {
		c.client.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("chaos: %w", err)
	}
	report.Problems = append(report.Problems, c.problems...)
	return report, nil
}

// run lets it happen.
func (c *chaos) run(ctx context.Context) (*Report, error) {
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	begun, err := c.enqueue(ctx)
	if err != nil {
		return nil, err
	}
	say(c.cfg.Progress, "%d items enqueued and %d faults injected in %s", c.cfg.Items, c.cfg.Faults, (election.Now() - begun).Round(time.Millisecond))
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Drain)
	defer cancel()
	if err := c.client.Set(ctx, chaosQueue, queue.Seal); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return c.drain(ctx)
}

// start starts brokers and workers and makes the queue.
func (c *chaos) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, dir := range []string{"in", "out"} {
		if err := os.Mkdir(filepath.Join(c.cfg.Dir, dir), 0o700); err != nil {
			return err
		}
	}
	var addresses []string
	for i := range c.cfg.Brokers {
		b, err := NewBroker(BrokerConfig{
			Consul: c.cfg.Consul, Binary: c.cfg.BrokerBinary, ID: fmt.Sprintf("b%d", i), Prefix: c.cfg.Prefix,
			Agent: c.cfg.Consul.ClientAddr(i % c.cfg.Consul.Clients()),
		})
		if err != nil {
			return err
		}
		c.brokers = append(c.brokers, &slot[*Broker]{it: b})
		addresses = append(addresses, b.Address())
		if err := errors.Join(b.Start(), b.AwaitReady(ctx)); err != nil {
			return err
		}
	}
	var err error
	if c.client, err = queue.NewClient(queue.ClientConfig{Addresses: addresses, Patience: time.Minute}); err != nil {
		return err
	}
	_, err = c.client.Create(ctx, chaosQueue, queue.Config{
		Shards: c.cfg.Shards, Retention: queue.Duration(time.Hour),
		Stages: []queue.Stage{{
			Name: "work", Lease: queue.Duration(chaosLease), MaxFailed: 1000, MaxLost: 1000,
			Backoff: queue.Duration(50 * time.Millisecond), MaxBackoff: queue.Duration(time.Second),
		}},
	})
	if err != nil {
		return fmt.Errorf("create the queue: %w", err)
	}
	for i := range c.cfg.Workers {
		w := NewWorker(WorkerConfig{
			Consul: c.cfg.Consul, Log: c.log, Binary: c.cfg.WorkerBinary, Name: fmt.Sprintf("w%d", i), Queue: chaosQueue,
			// Each knows the brokers in another order.
			Brokers: append(addresses[i%len(addresses):len(addresses):len(addresses)], addresses[:i%len(addresses)]...),
			Out:     filepath.Join(c.cfg.Dir, "out"), Max: 16, Pace: 40 * time.Millisecond,
		})
		c.workers = append(c.workers, &slot[*Worker]{it: w})
		if err := w.Start(); err != nil {
			return err
		}
	}
	return nil
}

// enqueueAtOnce is how many items go into a batch.
const enqueueAtOnce = 25

// enqueue adds all items, and lets as many faults come as items do, so that the run is
// as long as its faults take.
func (c *chaos) enqueue(ctx context.Context) (begun time.Duration, err error) {
	begun = election.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	share := make(chan int, 1) // items that may be enqueued
	var wg sync.WaitGroup
	wg.Go(func() { c.inject(ctx, share) })
	next := 0
	for n := range share {
		for last := min(next+n, c.cfg.Items); next < last; {
			size := min(enqueueAtOnce, last-next)
			if err := c.add(ctx, next, size); err != nil {
				cancel()
				wg.Wait()
				return begun, err
			}
			next += size
		}
	}
	wg.Wait()
	return begun, ctx.Err()
}

// input is the file of item number i, and its text.
func (c *chaos) input(i int) (path string, text []byte) {
	return filepath.Join(c.cfg.Dir, "in", fmt.Sprintf("%06d", i)), fmt.Appendf(nil, "this is document %d of %d\n", i, c.cfg.Items)
}

// add enqueues items, until it is known that they are stored.
func (c *chaos) add(ctx context.Context, from, n int) error {
	items := make([]queue.Item, n)
	for i := range items {
		path, text := c.input(from + i)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return err
		}
		items[i] = queue.Item{Input: path, Key: fmt.Sprintf("%d", from+i)}
	}
	call := election.Now()
	for {
		out, err := c.client.Enqueue(ctx, chaosQueue, items)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			say(c.cfg.Progress, "enqueue once more: %v", err)
			continue
		}
		for _, e := range out {
			c.added = append(c.added, history.Added{ID: e.ID, Call: call, Return: election.Now()})
		}
		return nil
	}
}

// drain waits until all is done and reads the status.
func (c *chaos) drain(ctx context.Context) (*Report, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := c.client.Status(ctx, chaosQueue)
		if err == nil && st.Finished {
			return &Report{Faults: c.faults, Items: c.cfg.Items, Status: st.Status, Verdicts: map[queue.Verdict]int{}}, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("not finished %s after the last fault: %+v, %w", c.cfg.Drain, st.Status, errors.Join(err, ctx.Err()))
		}
	}
}

// say writes a line for a person.
func say(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format+"\n", args...)
}
