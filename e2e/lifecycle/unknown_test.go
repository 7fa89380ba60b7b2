package lifecycle_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/rig"
)

// Without an answer from Nomad the reason is unknown, the hooks run in time all the
// same, and since somebody may take the state up again it is saved.
func TestReason_Unknown(t *testing.T) {
	for name, address := range map[string]string{"silent": silence(t), "refused": "127.0.0.1:1"} {
		t.Run(name, func(t *testing.T) {
			r := deaf(t, address)
			j := rig.Job{Name: name, Store: "own"}
			a := up(t, r, j)[0]
			last := count(t, r, j.Name, 0, 3)
			must.NoError(t, r.StopJob(patient(t), j.Name))
			told(t, r, a.ID, "unknown", false)
			must.True(t, hasEvent(over(t, r, a.ID), "stopping: unknown"))

			must.NoError(t, r.Register(patient(t), j))
			b := replaced(t, r, a)
			warm(t, r, b.ID, last)
			must.SliceEmpty(t, r.Recorder.All(rig.OfAlloc(b.ID), rig.Of(journal.Corrupt)))
		})
	}
}

// silence takes connections and says nothing.
func silence(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	var conns []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // the test is over
			}
			conns = append(conns, c)
		}
	})
	t.Cleanup(func() {
		must.NoError(t, l.Close())
		wg.Wait()
		for _, c := range conns {
			_ = c.Close() // the other side may have closed it
		}
	})
	return l.Addr().String()
}

// deaf starts a node whose plugin has this address of Nomad.
func deaf(t *testing.T, address string) *rig.Rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "np-deaf-")
	must.NoError(t, err)
	states := filepath.Join(dir, "states")
	must.NoError(t, os.Mkdir(states, 0o700))
	r, err := rig.Start(context.Background(), rig.Config{Clients: 1, Docker: cluster.DockerOff, Progress: os.Stderr, Extra: fmt.Sprintf(`
plugin "lifecycle-raw_exec" {
  args = ["-inner=raw_exec"]
  config {
    enabled = true
    lifecycle {
      nomad {
        address = "http://%s"
      }
      stores = {
        own = "file://%s"
      }
      endpoint {
        dir = %q
      }
    }
  }
}`, address, states, filepath.Join(dir, "e"))})
	must.NoError(t, err)
	t.Cleanup(func() {
		must.NoError(t, finish(r, t.Failed()))
		must.NoError(t, os.RemoveAll(dir))
	})
	return r
}
