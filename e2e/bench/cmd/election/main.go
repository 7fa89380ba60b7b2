// Command election measures leader election: "make bench-election".
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
	only := flag.String("only", "", "run only these, separated by commas: "+strings.Join(bench.Elections(), ", "))
	cfg := bench.ElectionConfig{Out: os.Stdout, Progress: os.Stderr}
	flag.IntVar(&cfg.Trials, "trials", 0, "trials of each fault (default 50)")
	flag.IntVar(&cfg.PeerTrials, "peer-trials", 0, "trials of each fault of the peers (default 10)")
	flag.IntVar(&cfg.Injections, "injections", 0, "faults of the soak run (default 500)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *only, cfg)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-election:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, cfg bench.ElectionConfig) error {
	parts := bench.Elections()
	if only != "" {
		parts = strings.Split(only, ",")
	}
	for _, part := range parts {
		fmt.Fprintln(os.Stderr, "measuring:", part)
		if err := bench.Election(ctx, part, cfg); err != nil {
			return err
		}
	}
	return nil
}
