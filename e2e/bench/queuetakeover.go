package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/queue/rig"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// takeoverItems are in the queue.
	takeoverItems = 10_000
	// takeoverLimit bounds one trial.
	takeoverLimit = time.Minute
	// takeoverSettle is how long a new broker is left alone before the next fault, at
	// least: until then its health check has not been seen passing everywhere.
	takeoverSettle = time.Second
)

// takeover measures from the SIGKILL of the broker that leads to the answer to a claim by
// the other one, which a worker asks all the time.
func (b *queueBench) takeover(ctx context.Context) error {
	return b.consul(ctx, func(c *cluster.Consul) (err error) {
		var brokers []*rig.Broker
		var clients []*queue.Client
		for i := range 2 {
			br, err := b.startBroker(ctx, c, fmt.Sprintf("b%d", i))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, br.Close()) }()
			client, err := queue.NewClient(queue.ClientConfig{Addresses: []string{br.Address()}, Patience: time.Millisecond})
			if err != nil {
				return err
			}
			defer client.Close()
			brokers, clients = append(brokers, br), append(clients, client)
		}
		all, err := queue.NewClient(queue.ClientConfig{Addresses: []string{brokers[0].Address(), brokers[1].Address()}})
		if err != nil {
			return err
		}
		defer all.Close()
		cfg := queue.Config{Stages: []queue.Stage{{Name: "work", Lease: queue.Duration(time.Hour)}}}
		if err := makeQueue(ctx, all, cfg); err != nil {
			return err
		}
		if err := b.fill(ctx, all, 0, takeoverItems); err != nil {
			return err
		}
		var times []time.Duration
		for i := range b.Trials {
			d, err := takeoverTrial(ctx, brokers, clients)
			if err != nil {
				return err
			}
			times = append(times, d)
			b.say("queue.takeover: %d of %d, %s", i+1, b.Trials, d.Round(time.Millisecond))
		}
		return b.print("# queue.takeover: %d trials with %d items in the queue, least %.0f ms, most %.0f ms\nbench queue.takeover.p50 %.0f ms\nbench queue.takeover.p99 %.0f ms",
			len(times), takeoverItems, ms(quantile(times, 0)), ms(quantile(times, 1)), ms(median(times)), ms(quantile(times, 0.99)))
	})
}

// takeoverTrial kills the broker that leads, and starts it again afterwards.
func takeoverTrial(ctx context.Context, brokers []*rig.Broker, clients []*queue.Client) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, takeoverLimit)
	defer cancel()
	leader := -1
	err := until(ctx, func() error {
		for i, br := range brokers {
			if rig.Leads(ctx, br, queueName) {
				leader = i
				return nil
			}
		}
		return errors.New("nobody leads")
	})
	if err != nil {
		return 0, err
	}
	if err := wait(ctx, takeoverSettle+rand.N(pauseLimit)); err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := brokers[leader].Kill(); err != nil {
		return 0, err
	}
	err = until(ctx, func() error {
		got, err := clients[1-leader].Claim(ctx, queueName, queue.ClaimRequest{Worker: "w"})
		if err == nil && len(got.Items) != 1 {
			err = fmt.Errorf("%d items claimed", len(got.Items))
		}
		return err
	})
	took := time.Since(begun)
	if err != nil {
		return 0, err
	}
	return took, errors.Join(brokers[leader].Start(), brokers[leader].AwaitReady(ctx))
}
