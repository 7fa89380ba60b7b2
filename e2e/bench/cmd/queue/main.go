// Command queue measures the work queue: "make bench-queue".
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/nomad-patterns/nomad-patterns/e2e/bench"
)

func main() {
	only := flag.String("only", "", "run only these, separated by commas: "+strings.Join(bench.Queues(), ", "))
	cfg := bench.QueueConfig{Out: os.Stdout, Progress: os.Stderr}
	flag.IntVar(&cfg.Items, "items", 0, "items of each throughput run (default 300000), the peers a sixth")
	flag.IntVar(&cfg.Rounds, "rounds", 0, "throughput runs, of which the median counts (default 3)")
	flag.IntVar(&cfg.Depth, "depth", 0, "items of the deep queue (default 1000000)")
	flag.IntVar(&cfg.Trials, "trials", 0, "takeovers (default 50)")
	flag.IntVar(&cfg.Faults, "faults", 0, "faults of the chaos run (default 150)")
	flag.StringVar(&cfg.Profile, "profile", "", "file for a CPU profile of the broker during the throughput runs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *only, cfg)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-queue:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, cfg bench.QueueConfig) error {
	parts := bench.Queues()
	if only != "" {
		parts = strings.Split(only, ",")
	}
	for _, part := range parts {
		fmt.Fprintln(os.Stderr, "measuring:", part)
		if err := bench.Queue(ctx, part, cfg); err != nil {
			return err
		}
	}
	return nil
}
