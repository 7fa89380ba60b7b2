// Command lifecycle measures what the lifecycle plugin promises of evictions:
// "make bench-lifecycle".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/nomad-patterns/nomad-patterns/e2e/bench"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/rig"
)

// clients is the number of nodes.
const clients = 3

func main() {
	only := flag.String("only", "", "run only these, separated by commas: evict, restore, leak")
	keep := flag.Bool("keep", false, "keep the cluster's directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *only, *keep)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-lifecycle:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, keep bool) (err error) {
	r, err := rig.Start(ctx, rig.Config{Clients: clients, Docker: cluster.DockerAuto, Progress: os.Stderr})
	if err != nil {
		return err
	}
	if keep {
		r.Keep()
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for _, b := range []struct {
		name string
		run  func(context.Context, *rig.Rig, io.Writer) error
	}{{"evict", bench.Evict}, {"restore", bench.Restore}, {"leak", bench.Leak}} {
		if only != "" && !strings.Contains(","+only+",", ","+b.name+",") {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring:", b.name)
		if err := b.run(ctx, r, os.Stdout); err != nil {
			return err
		}
	}
	return nil
}
