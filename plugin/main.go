// Command nomad-driver-lifecycle is a Nomad task driver plugin that gives the
// tasks of another driver lifecycle hooks.
//
// Nomad starts it from plugin_dir under the name lifecycle-docker,
// lifecycle-exec or lifecycle-raw_exec, or under any other with
// args = ["-inner=docker"] in its plugin block. With args =
// ["-inner-plugin=/path"] it decorates any other driver plugin.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"

	"github.com/nomad-patterns/nomad-patterns/plugin/driver"
	_ "github.com/nomad-patterns/nomad-patterns/plugin/sigpipe"
)

// exitUsage is the exit code if the command line asks for what cannot be done.
const exitUsage = 2

func main() {
	selected, err := driver.Select(os.Args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "nomad-driver-lifecycle:", err)
		os.Exit(exitUsage)
	}
	var served *driver.Driver
	plugins.ServeCtx(func(ctx context.Context, logger hclog.Logger) any {
		if served, err = selected.Open(ctx, logger); err != nil {
			logger.Error("the inner driver cannot be used", "error", err) // Nomad shows it in its own log
			os.Exit(exitUsage)
		}
		served.LogStatus()
		return served
	})
	if served != nil {
		served.Close()
	}
}
