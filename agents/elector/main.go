// Elector is leader election on Consul for any program: an agent with an HTTP API, and
// the command line that goes with it.
package main

import (
	"os"

	"github.com/nomad-patterns/nomad-patterns/agents/elector/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr)) }
