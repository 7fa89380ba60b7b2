// Command electionpeers measures what the peers of the elector need for the
// faults that take them long: "make bench-election-peers". With arguments it is
// one of the processes that are measured.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/nomad-patterns/nomad-patterns/e2e/bench"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-election-peers:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) > 1 {
		return bench.PeerMain(os.Args[1:])
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return bench.ElectionPeers(ctx, bench.ElectionConfig{Out: os.Stdout, Progress: os.Stderr})
}
