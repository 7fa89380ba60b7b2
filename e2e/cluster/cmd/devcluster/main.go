// Command devcluster starts and stops a Consul and a Nomad on this machine for
// a person, and prepares what the end-to-end tests need.
//
//	devcluster tools            find or build nomad and consul
//	devcluster plugin           build the lifecycle plugin
//	devcluster agents           build the agents
//	devcluster images           build the Docker images of the job templates
//	devcluster deps             install the Debian packages that are used
//	devcluster up [flags]       start a cluster that keeps running
//	devcluster status           tell where it is
//	devcluster down             stop it and take everything away
//	devcluster sweep            take away what crashed owners left
//	devcluster lint [args]      run the pinned golangci-lint
//
// It exits with 0 on success, 1 on a failure, 2 on wrong usage, and status
// exits with 3 if no cluster is up.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run is the command; it returns the exit code.
func run(ctx context.Context, args []string) int {
	commands := map[string]func(context.Context, []string) error{
		"tools": tools, "plugin": plugin, "agents": agents, "images": images, "deps": deps, "up": up, "down": down,
		"status": status, "sweep": sweep, "lint": lint,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprintln(os.Stderr, "usage: devcluster tools|plugin|agents|images|deps|up|status|down|sweep|lint")
		return exitUsage
	}
	return exitCode(commands[args[0]](ctx, args[1:]))
}
