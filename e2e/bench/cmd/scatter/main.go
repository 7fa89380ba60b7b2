// Command scatter measures scatter/gather: "make bench-scatter".
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
	only := flag.String("only", "", "run only these, separated by commas: "+strings.Join(bench.Scatters(), ", "))
	cfg := bench.ScatterConfig{Out: os.Stdout, Progress: os.Stderr}
	flag.IntVar(&cfg.Rounds, "rounds", 0, "rounds of each, of which the median counts (default 5)")
	flag.DurationVar(&cfg.Time, "time", 0, "time of a round with one program (default 5s)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *only, cfg)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-scatter:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, cfg bench.ScatterConfig) error {
	parts := bench.Scatters()
	if only != "" {
		parts = strings.Split(only, ",")
	}
	for _, part := range parts {
		fmt.Fprintln(os.Stderr, "measuring:", part)
		if err := bench.Scatter(ctx, part, cfg); err != nil {
			return err
		}
	}
	return nil
}
