package manage_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
)

// task is what a driver knows of a task. This one has nothing to save and may
// not replicate itself.
type task struct{ machine *lifecycle.Machine }

func (t task) Info() manage.Info {
	return manage.Info{Namespace: "default", Job: "shop", Group: "web", Task: "app", AllocID: "0a1b2c3d"}
}
func (t task) Status() (lifecycle.Status, <-chan struct{}) { return t.machine.Status() }
func (t task) Checkpoint() (manage.Checkpoint, bool)       { return manage.Checkpoint{}, false }
func (t task) Save(context.Context) (manage.Checkpoint, error) {
	return manage.Checkpoint{}, nil
}
func (t task) Replicate(context.Context, int64) (manage.Scaled, error) {
	return manage.Scaled{}, nil
}

// A driver serves a task at its socket, and the task asks for its state.
func ExampleServe() {
	secrets, err := os.MkdirTemp("", "secrets")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(secrets) }()
	ln, err := manage.Listen(secrets, manage.Owner{})
	if err != nil {
		fmt.Println(err)
		return
	}
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	app := task{lifecycle.New(lifecycle.Running, func() time.Time { return noon }, nil)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- manage.Serve(ctx, ln, app, manage.Options{}) }()

	app.machine.Announce(lifecycle.Stop{Reason: "drained"})

	// In the task: the socket's path is in LIFECYCLE_SOCKET.
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(secrets, manage.SocketName))
		},
		DisableKeepAlives: true,
	}}
	resp, err := client.Get("http://lifecycle/v1/state")
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = io.Copy(os.Stdout, resp.Body)
	_ = resp.Body.Close()

	cancel()
	if err := <-served; err != nil {
		fmt.Println(err)
	}
	// Output:
	// {"namespace":"default","job":"shop","group":"web","task":"app","alloc_id":"0a1b2c3d","index":0,"state":"running","since":"2026-03-01T12:00:00Z","soon":true,"reason":"drained","final":false}
}
