package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
)

// A program that needs a Nomad with the lifecycle plugin for a while. Tests
// use clustertest.Start, which stops the cluster by itself.
func Example() {
	run := func(ctx context.Context) (err error) {
		plugin, err := cluster.BuildPlugin(ctx, os.Stderr)
		if err != nil {
			return err
		}
		c, err := cluster.Start(ctx, cluster.Config{Clients: 2, PluginBinary: plugin, Progress: os.Stderr})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.Stop()) }()

		out, err := c.CLI(ctx, "node", "status")
		if err != nil {
			return err
		}
		fmt.Println(out)
		// The tasks of client 0 go on while its agent is away.
		if err := c.KillClient(0); err != nil {
			return err
		}
		return c.StartClient(ctx, 0)
	}
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}
