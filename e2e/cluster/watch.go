package cluster

import (
	"context"
	"fmt"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
)

// watchFor is how long one blocking query of [Watch] may stay unanswered.
const watchFor = 30 * time.Second

// Watch repeats a blocking query of Nomad until ask reports that it is done,
// fails, or ctx ends. ask makes the query with the options that it is given and
// returns the meta of the answer. what completes "wait until" in the error.
func Watch(ctx context.Context, what string, ask func(*nomadapi.QueryOptions) (done bool, meta *nomadapi.QueryMeta, err error)) error {
	opts := &nomadapi.QueryOptions{WaitTime: watchFor}
	for {
		done, meta, err := ask(opts.WithContext(ctx))
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("wait until %s: %w", what, ctx.Err())
		case err != nil:
			return fmt.Errorf("wait until %s: %w", what, err)
		case done:
			return nil
		}
		opts.WaitIndex = meta.LastIndex
	}
}
