// Scatter is scatter-gather for any program: a root that asks all shards of a Consul
// service at once and merges what they answer, and the command line that goes with it.
package main

import (
	"os"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr)) }
