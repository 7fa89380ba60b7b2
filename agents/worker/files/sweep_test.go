package files

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

// Nobody asks about an attempt that is at work, as long as its worker sweeps, and
// everybody does when it does not.
func TestSweep_AtWork(t *testing.T) {
	in, out := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: out})
	w, err := f.Begin(t.Context(), at(1, "a/x"))
	must.NoError(t, err)
	defer func() { must.NoError(t, w.Close()) }()
	began := time.Now()
	asked := 0
	sweep := func(mine bool, later time.Duration) Swept {
		done, err := f.Sweep(t.Context(), Sweep{
			Item: func(context.Context, queue.ID) (queue.ItemStatus, error) {
				asked++
				return queue.ItemStatus{State: "ready", Claim: 2}, nil
			},
			Mine: func(queue.ID, uint64) bool { return mine },
			Now:  func() time.Time { return began.Add(later) },
		})
		must.NoError(t, err)
		return done
	}
	old := began.Add(-time.Hour)
	dir := f.place.(*dirPlace)
	all, err := dir.list(t.Context())
	must.NoError(t, err)
	must.Len(t, 1, all)
	must.NoError(t, os.Chtimes(dir.dir(all[0].key)+running, old, old))

	must.Eq(t, Swept{}, sweep(true, 0)) // its own worker
	must.Eq(t, Swept{}, sweep(false, runAge-time.Second))
	must.Eq(t, 0, asked)
	must.Eq(t, Swept{Removed: 1}, sweep(false, runAge+time.Minute))
	must.Eq(t, 1, asked)
}
