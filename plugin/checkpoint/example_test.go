package checkpoint_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/nomad-patterns/nomad-patterns/plugin/checkpoint"
)

// What a driver does from a task's start to its end.
func Example() {
	dir, err := os.MkdirTemp("", "checkpoints")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is the system's to remove what is left
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	store, err := checkpoint.OpenBlob(ctx, "file://"+dir)
	if err != nil {
		panic(err)
	}
	id := checkpoint.Identity{Namespace: "default", Job: "shop", Group: "web", Index: "0", Task: "server"}

	run := func(alloc string) error {
		chain, err := checkpoint.Open(store, id, checkpoint.Options{Keep: 3, MaxSize: 1 << 20})
		if err != nil {
			return err
		}
		// Let the allocation before save first. It is over if Nomad says so.
		over := func(context.Context, checkpoint.Owner) bool { return false }
		if err := chain.AwaitEnd(ctx, alloc, time.Second, over); err != nil {
			return err
		}
		session, _, err := chain.Claim(ctx, checkpoint.Owner{Alloc: alloc, Node: "node-1"})
		if err != nil {
			return err
		}
		latest, err := chain.Latest(ctx)
		if err != nil {
			return err // not known whether there is a state: fail, or start cold
		}
		state := "nothing"
		if latest.Checkpoint != nil {
			state = string(latest.Checkpoint.Data)
		}
		fmt.Printf("%s restores %s\n", alloc, state)

		if _, err := session.Save(ctx, []byte("what "+alloc+" has done"), "drained"); err != nil {
			return err
		}
		return session.End(ctx, "drained", false)
	}
	for _, alloc := range []string{"a1", "b2"} {
		if err := run(alloc); err != nil {
			panic(err)
		}
	}
	fmt.Println(store.Close())
	// Output:
	// a1 restores nothing
	// b2 restores what a1 has done
	// <nil>
}
