// Worker does the items of a queue with any program that reads a file and writes a file.
package main

import (
	"os"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr)) }
