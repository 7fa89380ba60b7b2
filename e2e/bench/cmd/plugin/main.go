// Command plugin measures the lifecycle plugin against Nomad's own drivers:
// "make bench-plugin".
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
)

func main() {
	only := flag.String("only", "", "run only these, separated by commas: overhead, footprint, graceful")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *only)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-plugin:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string) (err error) {
	plugin, err := cluster.BuildPlugin(ctx, os.Stderr)
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Config{PluginBinary: plugin, Docker: cluster.DockerOff, Progress: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	for _, b := range []struct {
		name string
		run  func(context.Context, *cluster.Cluster, io.Writer) error
	}{{"overhead", bench.Overhead}, {"footprint", bench.Footprint}, {"graceful", bench.Graceful}} {
		if only != "" && !strings.Contains(","+only+",", ","+b.name+",") {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring:", b.name)
		if err := b.run(ctx, c, os.Stdout); err != nil {
			return err
		}
	}
	return nil
}
