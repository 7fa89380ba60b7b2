// Queue is a durable work queue on Consul for any program: a broker with an HTTP API, and
// the command line that goes with it.
package main

import (
	"os"

	"github.com/nomad-patterns/nomad-patterns/agents/queue/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
