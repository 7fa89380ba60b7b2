package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/queue/rig"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// rawTime is how long raw PUTs are counted.
	rawTime = 5 * time.Second
	// itemsBatch is how many items a client enqueues, claims and acknowledges at once.
	itemsBatch = 250
	// itemsProducers of the connections enqueue, the others claim and acknowledge.
	itemsProducers = queueConns / 4
	// itemsLimit bounds a throughput run. What is slower is counted up to there.
	itemsLimit = 3 * time.Minute
)

// items measures Consul and the queue on it by turns, so that both have the same
// machine.
func (b *queueBench) items(ctx context.Context) error {
	return b.withBroker(ctx, queue.Config{}, func(c *cluster.Consul, _ *rig.Broker, client *queue.Client) error {
		var raws, rates, singles []float64
		for i := range b.Rounds {
			raw, err := rawPuts(ctx, c)
			if err != nil {
				return err
			}
			profiled := b.profile(ctx)
			rate, err := itemsRound(ctx, client, b.Items, itemsBatch)
			if err = errors.Join(err, profiled()); err != nil {
				return err
			}
			single, err := itemsRound(ctx, client, b.Items/10, 1)
			if err != nil {
				return err
			}
			b.say("queue.items: round %d of %d: %.0f PUT/s, %.0f items/s, one by one %.0f items/s", i+1, b.Rounds, raw, rate, single)
			raws, rates, singles = append(raws, raw), append(rates, rate), append(singles, single)
		}
		raw, rate := middle(raws), middle(rates)
		return b.print("# queue.put.raw: %d connections, %d B; queue.items: %d items of %d B, %d connections, batches of %d; "+
			"medians of %d rounds: %.0f PUT/s, %.0f items/s; queue.items.single: %d items, each with requests of its own: %.0f items/s\n"+
			"bench queue.put.raw %.0f /s\nbench queue.items %.0f /s\nbench queue.ratio %.2f x\nbench queue.items.single %.0f /s",
			queueConns, queuePayload, b.Items, queuePayload, queueConns, itemsBatch, b.Rounds, raws, rates, b.Items/10, singles,
			raw, rate, rate/raw, middle(singles))
	})
}

// middle is the median.
func middle(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// eachConn runs something on so many goroutines and returns their errors. When one fails
// the others end.
func eachConn(ctx context.Context, n int, run func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			if errs[i] = run(ctx, i); errs[i] != nil {
				cancel(errs[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// rawPuts is how many values Consul stores in a second.
func rawPuts(ctx context.Context, c *cluster.Consul) (float64, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: queueConns, MaxConnsPerHost: queueConns}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	value := bytes.Repeat([]byte("x"), queuePayload)
	var n atomic.Int64
	begun := time.Now()
	err := eachConn(ctx, queueConns, func(ctx context.Context, i int) error {
		for k := 0; time.Since(begun) < rawTime; k++ {
			url := fmt.Sprintf("%s/v1/kv/bench/raw/%d-%d", c.ServerAddr(0), i, k%1000)
			req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewReader(value))
			if err != nil {
				return err
			}
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("raw PUT: %s", resp.Status)
			}
			n.Add(1)
		}
		return nil
	})
	return float64(n.Load()) / time.Since(begun).Seconds(), err
}

// itemsRound puts items through the queue, in batches of so many, and returns how many a
// second went through their whole life.
func itemsRound(ctx context.Context, client *queue.Client, items, batch int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, itemsLimit)
	defer cancel()
	var next, done atomic.Int64
	total := int64(items)
	begun := time.Now()
	err := eachConn(ctx, queueConns, func(ctx context.Context, i int) error {
		if i < itemsProducers {
			return produce(ctx, client, &next, total, batch, queuePayload)
		}
		return consume(ctx, client, fmt.Sprintf("w%d", i), &done, total, batch)
	})
	return float64(done.Load()) / time.Since(begun).Seconds(), err
}

// produce enqueues batches until all items are enqueued.
func produce(ctx context.Context, client *queue.Client, next *atomic.Int64, total int64, batch, size int) error {
	for {
		last := next.Add(int64(batch))
		first := last - int64(batch)
		if first >= total {
			return nil
		}
		items := make([]queue.Item, min(last, total)-first)
		for i := range items {
			items[i].Input = payload(int(first)+i, size)
		}
		if err := enqueueAll(ctx, client, items); err != nil {
			return err
		}
	}
}

// enqueueAll enqueues a batch. Without keys a doubtful answer is an error.
func enqueueAll(ctx context.Context, client *queue.Client, items []queue.Item) error {
	out, err := client.Enqueue(ctx, queueName, items)
	if err == nil && len(out) != len(items) {
		err = fmt.Errorf("%d of %d items enqueued", len(out), len(items))
	}
	return err
}

// consume claims batches and acknowledges them until all items are done.
func consume(ctx context.Context, client *queue.Client, worker string, done *atomic.Int64, total int64, batch int) error {
	for done.Load() < total {
		got, err := client.Claim(ctx, queueName, queue.ClaimRequest{Worker: worker, Max: batch, Wait: queue.Duration(200 * time.Millisecond)})
		if err != nil {
			return err
		}
		if len(got.Items) == 0 {
			continue
		}
		acks := make([]queue.Ack, len(got.Items))
		for i, it := range got.Items {
			acks[i] = queue.Ack{ID: it.ID, Claim: it.Claim}
		}
		results, err := client.Ack(ctx, queueName, acks)
		if err != nil {
			return err
		}
		for _, r := range results {
			if r.Verdict != queue.Accepted {
				return fmt.Errorf("item %s: %s: %s", r.ID, r.Verdict, r.Error)
			}
		}
		done.Add(int64(len(results)))
	}
	return nil
}

// profile fetches a CPU profile of the broker, if one is wanted. The function that it
// returns waits for it.
func (b *queueBench) profile(ctx context.Context) (wait func() error) {
	if b.Profile == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+profileAddr+"/debug/pprof/profile?seconds=2", nil)
		if err != nil {
			done <- err
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			done <- err
			return
		}
		data, err := io.ReadAll(resp.Body)
		done <- errors.Join(err, resp.Body.Close(), os.WriteFile(b.Profile, data, 0o600))
	}()
	return func() error { return <-done }
}
