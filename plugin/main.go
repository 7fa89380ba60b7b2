// Command nomad-driver-lifecycle is a Nomad task driver plugin that gives the
// tasks of another driver lifecycle hooks.
//
// Nomad starts it from plugin_dir under the name lifecycle-docker,
// lifecycle-exec or lifecycle-raw_exec, or under any other with
// args = ["-inner=docker"] in its plugin block.
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

func main() {
	inner, name, err := driver.Select(os.Args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "nomad-driver-lifecycle:", err)
		os.Exit(2)
	}
	plugins.ServeCtx(func(ctx context.Context, logger hclog.Logger) any {
		d := driver.New(ctx, name, inner(ctx, logger), logger)
		d.LogStatus()
		return d
	})
}
