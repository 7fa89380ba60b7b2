package reason_test

import (
	"context"
	"fmt"
	"log"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/plugin/reason"
)

// A task that is told of its end early, and of the reason when it comes.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	client, err := reason.New(reason.Config{TokenFile: "/etc/nomad.d/plugin.token"})
	if err != nil {
		log.Fatal(err)
	}
	watcher := reason.NewWatcher(ctx, client, hclog.Default())
	defer watcher.Wait()
	defer cancel()

	const namespace, alloc, task = "default", "5c3f7c9e-7a0e-4d2f-8f52-5f2f0d5a8f0e", "web"
	remove := watcher.Add(namespace, alloc, func(a *api.Allocation) {
		if reason.Classify(reason.Observation{Alloc: a, Task: task}).Decided {
			v, err := client.Why(ctx, namespace, alloc, task) // the stream does not tell all
			fmt.Println("will stop:", v.Reason, v.Detail, err)
		}
	})
	defer remove()

	// When Nomad asks the driver to stop the task:
	v, err := client.Why(ctx, namespace, alloc, task)
	if err != nil {
		log.Print(err) // and v has what is known all the same
	}
	if !v.Final {
		fmt.Println("save the state, the task will go on elsewhere:", v.Reason)
	}
}

func ExampleClassify() {
	// The event stream has told of a change. Is it a stop?
	a := &api.Allocation{DesiredStatus: "evict", DesiredDescription: "Preempted by alloc ID 5c3f"}
	v := reason.Classify(reason.Observation{Alloc: a, Task: "web"})
	fmt.Println(v.Decided, v.Reason, v.Final, v.Whole)
	fmt.Println(v.Detail)
	// Output:
	// true preempted false true
	// Preempted by alloc ID 5c3f
}
