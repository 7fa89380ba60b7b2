package group_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/plugin/group"
)

// One task from its start to the end of the allocation, as its driver sees it.
func Example() {
	allocDir, err := os.MkdirTemp("", "alloc")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(allocDir) }()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	run := func(_ context.Context, d group.Declaration) error {
		fmt.Printf("%s, declared on %s: %s\n", d.Event, d.Task, d.Hook)
		return nil
	}
	once := func(g *group.Group, e group.Event, f group.Facts) {
		if _, err := g.Once(ctx, e, f, run); err != nil {
			panic(err)
		}
	}

	// StartTask
	web, err := group.Join(group.Dir(allocDir), group.Member{
		Task: "web", Driver: "lifecycle-docker", State: group.Starting,
		StopAfter: []string{"api"},
		Hooks:     map[group.Event]json.RawMessage{group.OnCreated: json.RawMessage(`"register"`), group.OnStopped: json.RawMessage(`"forget"`)},
	}, time.Now, hclog.NewNullLogger())
	if err != nil {
		panic(err) // errors.Is(err, group.ErrInvalid): a new try does not help
	}
	facts := group.Facts{} // the API is away
	once(web, group.OnCreated, facts)
	// … the process starts, the ready hooks succeed …
	if err := web.Running(); err != nil {
		panic(err)
	}
	once(web, group.OnRunning, facts)

	// StopTask, after the API has said why
	facts.Whole = true
	if err := web.Stopping("drained", facts.Whole); err != nil {
		panic(err)
	}
	once(web, group.OnStopping, facts)
	report, err := web.AwaitPredecessors(ctx, facts)
	if err != nil {
		panic(err)
	}
	for _, w := range report.Waits {
		fmt.Printf("%s: %s\n", w.Task, w.End)
	}
	// … prestop hooks, the inner stop; the process ends …
	if err := web.Stopped(); err != nil {
		panic(err)
	}
	once(web, group.OnStopped, facts)

	// Output:
	// created, declared on web: "register"
	// api: not seen
	// stopped, declared on web: "forget"
}
