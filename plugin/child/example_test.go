package child_test

import (
	"context"
	"fmt"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"

	"github.com/nomad-patterns/nomad-patterns/plugin/child"
)

// Example serves another plugin's driver as it is. A decorator stands in
// between.
func Example() {
	var inner *child.Driver
	plugins.ServeCtx(func(ctx context.Context, logger hclog.Logger) any {
		var err error
		inner, err = child.New(ctx, "/opt/nomad/plugins/nomad-driver-podman", nil, logger)
		if err != nil {
			logger.Error("inner driver", "error", err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stderr, inner.Name()) // lifecycle-podman
		return inner
	})
	inner.Close() // ServeCtx does not wait for what its context ends
}
