package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/queue/rig"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// latencyItems are enqueued one by one, with latencyPause between them.
	latencyItems = 500
	latencyPause = 20 * time.Millisecond
	// depthShallow is the depth that the deep queue is compared with, and depthClaims the
	// number of claims at each.
	depthShallow = 1000
	depthClaims  = 500
	// depthPayload is the size of an item of the deep queue: a reference to an object, as
	// items are meant to be.
	depthPayload = 60
	// depthProducers fill the queue.
	depthProducers = 8
	// settleTime is how long memory is left to settle: Go collects its garbage every two
	// minutes when little happens, and gives it back to the system afterwards.
	settleTime = 150 * time.Second
)

// latency measures from the call that enqueues an item to the answer to the worker that
// has been waiting for one.
func (b *queueBench) latency(ctx context.Context) error {
	return b.withBroker(ctx, queue.Config{}, func(_ *cluster.Consul, _ *rig.Broker, client *queue.Client) error {
		var times, puts []time.Duration
		begun := make(chan time.Time, 1)
		claimed := make(chan error)
		go func() {
			defer close(claimed)
			for range latencyItems {
				got, err := client.Claim(ctx, queueName, queue.ClaimRequest{Worker: "w", Wait: queue.Duration(time.Minute)})
				at := time.Now()
				if err == nil && len(got.Items) != 1 {
					err = fmt.Errorf("%d items claimed", len(got.Items))
				}
				if err != nil {
					claimed <- err
					return
				}
				times = append(times, at.Sub(<-begun))
				if _, err := client.Ack(ctx, queueName, []queue.Ack{{ID: got.Items[0].ID, Claim: got.Items[0].Claim}}); err != nil {
					claimed <- err
					return
				}
				claimed <- nil
			}
		}()
		for i := range latencyItems {
			if err := wait(ctx, latencyPause); err != nil {
				return err
			}
			at := time.Now()
			begun <- at
			if err := enqueueAll(ctx, client, []queue.Item{{Input: payload(i, queuePayload)}}); err != nil {
				return err
			}
			puts = append(puts, time.Since(at))
			if err := <-claimed; err != nil {
				return err
			}
		}
		return b.print("# queue.latency: %d items, %s apart; enqueueing alone p50 %.2f ms\nbench queue.latency.p50 %.2f ms\nbench queue.latency.p99 %.2f ms",
			latencyItems, latencyPause, ms(median(puts)), ms(median(times)), ms(quantile(times, 0.99)))
	})
}

// depth measures claims at a thousand and a million items, and what the million costs.
func (b *queueBench) depth(ctx context.Context) error {
	cfg := queue.Config{Stages: []queue.Stage{{Name: "work", Lease: queue.Duration(time.Hour)}}}
	return b.withBroker(ctx, cfg, func(c *cluster.Consul, br *rig.Broker, client *queue.Client) error {
		empty, err := rss(c.ServerPID(0))
		if err != nil {
			return err
		}
		if err := b.fill(ctx, client, 0, depthShallow); err != nil {
			return err
		}
		shallow, err := claims(ctx, client)
		if err != nil {
			return err
		}
		begun := time.Now()
		if err := b.fill(ctx, client, depthShallow, b.Depth); err != nil {
			return err
		}
		filled := time.Since(begun)
		deep, err := claims(ctx, client)
		if err != nil {
			return err
		}
		now, later, err := settled(ctx, c.ServerPID(0), br.PID())
		if err != nil {
			return err
		}
		consul, broker := later[0], later[1]
		load, again, err := b.reload(ctx, br, client)
		if err != nil {
			return err
		}
		name := map[bool]string{true: "1e6", false: fmt.Sprint(b.Depth)}[b.Depth == 1_000_000]
		return b.print("# queue.depth: items of %d B, enqueued at %.0f/s; Consul %.0f MiB empty, %.0f MiB just filled, %.0f MiB %s later; claims p99 %.2f and %.2f ms; "+
			"a broker that takes over %d items answers after %s and has %.0f MiB\n"+
			"bench queue.depth.1e3.claim %.2f ms\nbench queue.depth.%s.claim %.2f ms\nbench queue.depth.%s.mib %.0f MiB\nbench queue.broker.rss.%s %.0f MiB",
			depthPayload, float64(b.Depth)/filled.Seconds(), empty, now[0], consul, settleTime, ms(quantile(shallow, 0.99)), ms(quantile(deep, 0.99)),
			b.Depth, load.Round(time.Millisecond), again, ms(median(shallow)), name, ms(median(deep)), name, consul-empty, name, max(broker, again))
	})
}

// fill enqueues items up to a depth.
func (b *queueBench) fill(ctx context.Context, client *queue.Client, from, to int) error {
	var next atomic.Int64
	next.Store(int64(from))
	return eachConn(ctx, depthProducers, func(ctx context.Context, _ int) error {
		return produce(ctx, client, &next, int64(to), itemsBatch, depthPayload)
	})
}

// claims measures claims of one item each, which go back.
func claims(ctx context.Context, client *queue.Client) ([]time.Duration, error) {
	var times []time.Duration
	for range depthClaims {
		begun := time.Now()
		got, err := client.Claim(ctx, queueName, queue.ClaimRequest{Worker: "w"})
		times = append(times, time.Since(begun))
		if err == nil && len(got.Items) != 1 {
			err = fmt.Errorf("%d items claimed", len(got.Items))
		}
		if err != nil {
			return nil, err
		}
		_, err = client.Ack(ctx, queueName, []queue.Ack{{ID: got.Items[0].ID, Claim: got.Items[0].Claim, Action: queue.Release}})
		if err != nil {
			return nil, err
		}
	}
	return times, nil
}

// settled is the memory of processes at once, and when it has settled, in MiB.
func settled(ctx context.Context, pids ...int) (now, later []float64, err error) {
	all := func() (list []float64, err error) {
		for _, pid := range pids {
			m, err := rss(pid)
			if err != nil {
				return nil, err
			}
			list = append(list, m)
		}
		return list, nil
	}
	if now, err = all(); err != nil {
		return nil, nil, err
	}
	if err := wait(ctx, settleTime); err != nil {
		return nil, nil, err
	}
	later, err = all()
	return now, later, err
}

// reload starts the broker anew on what is stored: how long it takes until it answers
// after its shard was free, and its memory then.
func (b *queueBench) reload(ctx context.Context, br *rig.Broker, client *queue.Client) (time.Duration, float64, error) {
	if err := br.Stop(); err != nil {
		return 0, 0, err
	}
	begun := time.Now()
	if err := br.Start(); err != nil {
		return 0, 0, err
	}
	limited, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	err := until(limited, func() error {
		st, err := client.Status(limited, queueName)
		if err == nil && st.Items != b.Depth {
			err = errors.New("not all items are there")
		}
		return err
	})
	took := time.Since(begun)
	if err != nil {
		return 0, 0, err
	}
	_, mem, err := settled(ctx, br.PID())
	if err != nil {
		return 0, 0, err
	}
	return took, mem[0], nil
}
