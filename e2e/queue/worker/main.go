// Command worker is a worker of a chaos run: it makes an output file of each input file,
// and writes down on its standard output what it asks for and what it is told. It ends
// when its standard input does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/queue/history"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

// patience is how long an answer is waited for. What is not answered by then is unknown.
const patience = 60 * time.Second

// worker takes items in batches.
type worker struct {
	client *queue.Client
	queue  string
	name   string
	out    string
	max    int
	pace   time.Duration
	events *json.Encoder
	batch  int
}

func run() error {
	w := &worker{events: json.NewEncoder(os.Stdout)}
	brokers := flag.String("brokers", "", "addresses of brokers, separated by commas")
	flag.StringVar(&w.queue, "queue", "", "name of the queue")
	flag.StringVar(&w.name, "name", "", "name of the worker")
	flag.StringVar(&w.out, "out", "", "directory of the outputs")
	flag.IntVar(&w.max, "max", 8, "items at once")
	flag.DurationVar(&w.pace, "pace", 50*time.Millisecond, "what a batch takes, about")
	flag.Parse()
	var err error
	if w.client, err = queue.NewClient(queue.ClientConfig{Addresses: strings.Split(*brokers, ","), Patience: patience}); err != nil {
		return err
	}
	defer w.client.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is what matters
		stop()
	}()
	w.write(history.Event{Kind: history.Ready})
	for ctx.Err() == nil {
		if err := w.once(ctx); err != nil {
			return err
		}
	}
	return nil
}

// write writes an event down. Without it the check would be wrong, so a worker whose
// events nobody reads ends.
func (w *worker) write(e history.Event) {
	if err := w.events.Encode(e); err != nil {
		os.Exit(1)
	}
}

// once claims a batch, does the work, and says so.
func (w *worker) once(ctx context.Context) error {
	e := history.Event{Kind: history.Claim, Call: election.Now()}
	got, err := w.client.Claim(ctx, w.queue, queue.ClaimRequest{Worker: w.name, Max: w.max, Wait: queue.Duration(time.Second)})
	e.Return = election.Now()
	if err != nil {
		// Brokers are being killed; what they had answered is lost until its lease ends.
		fmt.Fprintln(os.Stderr, "claim:", err)
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
		return nil
	}
	if len(got.Items) == 0 {
		return nil
	}
	for _, it := range got.Items {
		e.Attempts = append(e.Attempts, history.Attempt{ID: it.ID, Claim: it.Claim})
	}
	w.write(e)
	renewed := w.renew(ctx, got)
	acks, err := w.work(got.Items)
	if err == nil {
		w.ack(acks)
	}
	renewed()
	return err
}

// renew extends the leases of a batch until the function that it returns is called.
func (w *worker) renew(ctx context.Context, got queue.ClaimResponse) (end func()) {
	byShard := map[int][]uint64{}
	for _, it := range got.Items {
		byShard[it.ID.Shard] = append(byShard[it.ID.Shard], it.Claim)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Duration(got.Lease) / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for shard, claims := range byShard {
				// A lease that is lost shows when the item is acknowledged.
				if _, err := w.client.Extend(ctx, w.queue, queue.Extend{Worker: w.name, Claims: claims, Shard: shard}); err != nil && ctx.Err() == nil {
					fmt.Fprintln(os.Stderr, "extend:", err)
				}
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// work makes the outputs.
func (w *worker) work(items []queue.Claimed) ([]queue.Ack, error) {
	time.Sleep(w.pace/2 + rand.N(w.pace)) // that is what work takes
	acks := make([]queue.Ack, len(items))
	for i, it := range items {
		acks[i] = queue.Ack{ID: it.ID, Claim: it.Claim, Action: queue.Done}
		switch rand.IntN(50) {
		case 0:
			acks[i].Action, acks[i].Reason = queue.Retry, "bad luck"
			continue
		case 1:
			acks[i].Action = queue.Release
			continue
		}
		var item queue.Item
		if err := json.Unmarshal(it.Item, &item); err != nil {
			return nil, fmt.Errorf("item %s: %w", it.ID, err)
		}
		path := filepath.Join(w.out, fmt.Sprintf("%s.%d", it.ID, it.Claim))
		if err := transform(item.Input, path); err != nil {
			return nil, fmt.Errorf("item %s: %w", it.ID, err)
		}
		acks[i].Output = path
	}
	return acks, nil
}

// transform makes an output of an input, whole or not at all.
func transform(in, out string) error {
	text, err := os.ReadFile(in)
	if err == nil {
		err = os.WriteFile(out+".part", history.Transform(text), 0o600)
	}
	if err == nil {
		err = os.Rename(out+".part", out)
	}
	return err
}

// ack says what became of items. It goes on when the worker is asked to end.
func (w *worker) ack(acks []queue.Ack) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w.batch++
	e := history.Event{Kind: history.AckBegun, Batch: w.batch, Call: election.Now()}
	for _, a := range acks {
		e.Attempts = append(e.Attempts, history.Attempt{ID: a.ID, Claim: a.Claim, Action: a.Action})
	}
	w.write(e)
	results, err := w.client.Ack(ctx, w.queue, acks)
	e = history.Event{Kind: history.AckEnded, Batch: w.batch, Return: election.Now()}
	if err == nil && len(results) != len(acks) {
		err = errors.New("not as many verdicts as acks")
	}
	if err != nil {
		e.Error = err.Error()
	}
	for _, r := range results {
		e.Verdicts = append(e.Verdicts, r.Verdict)
	}
	w.write(e)
}
