package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// ExecTask implements drivers.DriverPlugin.
func (d *Driver) ExecTask(id string, command []string, timeout time.Duration) (*drivers.ExecTaskResult, error) {
	return d.inner.ExecTask(id, command, timeout)
}

// ExecTaskStreamingRaw serves `nomad alloc exec`. Drivers come in two kinds:
// exec and raw_exec pass the raw stream on, docker wants its parts.
func (d *Driver) ExecTaskStreamingRaw(ctx context.Context, id string, command []string, tty bool, stream drivers.ExecTaskStream) error {
	switch inner := d.inner.(type) {
	case drivers.ExecTaskStreamingRawDriver:
		return inner.ExecTaskStreamingRaw(ctx, id, command, tty, stream)
	case drivers.ExecTaskStreamingDriver:
		return execStreaming(ctx, inner, id, command, tty, stream)
	default:
		return errors.New("the inner driver does not support exec")
	}
}

func execStreaming(ctx context.Context, inner drivers.ExecTaskStreamingDriver, id string, command []string, tty bool, stream drivers.ExecTaskStream) error {
	opts, copied := drivers.StreamToExecOptions(ctx, command, tty, stream)
	// A command may end without having read its input. Whoever still writes to
	// it would wait for ever. Not earlier, or that would count as a failure.
	defer func() { _ = opts.Stdin.Close() }()
	result, err := inner.ExecTaskStreaming(ctx, id, opts)
	// Closing tells the copying goroutines that no more output comes. They may
	// be closed already, which is no news.
	_ = opts.Stdout.Close()
	_ = opts.Stderr.Close()
	if err != nil {
		return err
	}
	select {
	case err := <-copied:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return fmt.Errorf("exec in task %q: %w", id, ctx.Err())
	}
	return stream.Send(drivers.NewExecStreamingResponseExit(result.ExitCode))
}
