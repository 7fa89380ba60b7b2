package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/queue/rig"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// filesCount is the number of files of a round, and filesSize the size of each.
	filesCount = 400
	filesSize  = 1000
	// filesProgram is what is run for each: it reads a file and writes a file.
	filesProgram = "/bin/cp"
	// filesPatience bounds a round.
	filesPatience = 2 * time.Minute
)

// files measures what an item costs a worker beyond its program: the same program is run
// on the same files by itself, one after the other, and by a worker with one slot. The
// difference is all of it: claim, directories, start, output synced and published, ack.
func (b *queueBench) files(ctx context.Context) error {
	worker, err := rig.Build(ctx, b.dir, "agents/worker")
	if err != nil {
		return err
	}
	in, out := filepath.Join(b.dir, "in"), filepath.Join(b.dir, "out")
	names := make([]string, filesCount)
	if err := os.Mkdir(in, 0o700); err != nil {
		return err
	}
	for i := range names {
		names[i] = filepath.Join(in, fmt.Sprintf("%04d", i))
		if err := os.WriteFile(names[i], make([]byte, filesSize), 0o600); err != nil {
			return err
		}
	}
	return b.withBroker(ctx, queue.Config{}, func(c *cluster.Consul, br *rig.Broker, client *queue.Client) (err error) {
		w := rig.NewProgram(c, "bench-worker", func() *exec.Cmd {
			return exec.Command(worker, "-queue="+queueName, "-queue-addr="+br.Address(), "-input-dir="+in, "-output="+out,
				"-work-dir="+filepath.Join(b.dir, "work"), "--", filesProgram, "$WQ_INPUT", "$WQ_OUTPUT")
		})
		if err := w.Start(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, w.Close()) }()
		var alone, worked, memory []float64
		done := 0
		// The first round is not counted: the worker is starting.
		for i := range b.Rounds + 1 {
			begun := time.Now()
			for _, name := range names {
				if err := exec.CommandContext(ctx, filesProgram, name, filepath.Join(b.dir, "copy")).Run(); err != nil {
					return err
				}
			}
			single := ms(time.Since(begun)) / filesCount
			begun = time.Now()
			items := make([]queue.Item, len(names))
			for k, name := range names {
				items[k].Input = name
			}
			if err := enqueueAll(ctx, client, items); err != nil {
				return err
			}
			done += len(names)
			if err := b.awaitDone(ctx, client, done); err != nil {
				return err
			}
			each := ms(time.Since(begun)) / filesCount
			mem, err := rss(w.PID())
			if err != nil {
				return err
			}
			if i == 0 {
				continue
			}
			b.say("queue.file: round %d of %d: %.2f ms alone, %.2f ms in a worker", i, b.Rounds, single, each)
			alone, worked, memory = append(alone, single), append(worked, each), append(memory, mem)
		}
		return b.print("# queue.file: %d files of %d B, %s by itself %.2f ms, by a worker with one slot %.2f ms, from claim to claim\n"+
			"bench queue.file.overhead %.2f ms\nbench queue.worker.rss %.1f MiB",
			filesCount, filesSize, filesProgram, alone, worked, middle(worked)-middle(alone), middle(memory))
	})
}

// awaitDone waits until so many items are done.
func (b *queueBench) awaitDone(ctx context.Context, client *queue.Client, done int) error {
	ctx, cancel := context.WithTimeout(ctx, filesPatience)
	defer cancel()
	return until(ctx, func() error {
		st, err := client.Status(ctx, queueName)
		if err == nil && int(st.Stages[0].Done) < done {
			err = fmt.Errorf("%d of %d items are done", st.Stages[0].Done, done)
		}
		return err
	})
}
