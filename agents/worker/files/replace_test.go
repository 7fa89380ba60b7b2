package files

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

// publishDir publishes a directory "x" of an item that came before.
func publishDir(t *testing.T, out string, files map[string]string) {
	t.Helper()
	in, _ := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: out, Name: "{name}"})
	a := at(1, "a/x")
	a.ID.Seq = 3
	w, _ := doDir(t, f, a, files)
	must.NoError(t, w.Publish(t.Context()))
}

// A directory with the outputs of other items is not one of them.
func TestReplace_Others(t *testing.T) {
	in, out := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: out})
	w, _ := do(t, f, at(1, "a/x"))
	must.NoError(t, w.Publish(t.Context()))
	a := at(2, "a")
	a.ID.Seq = 8
	w, _ = doDir(t, f, a, map[string]string{"y": "y"})
	must.ErrorContains(t, w.Publish(t.Context()), "put {id} into -name")
	must.Eq(t, map[string]string{"a/x": "text by 1", ".wq/q/0-8.2.1/a/y": "y"}, tree(t, out))
	// When the operator has moved them away it is published after all.
	must.NoError(t, os.Rename(filepath.Join(out, "a"), filepath.Join(t.TempDir(), "a")))
	must.NoError(t, w.Publish(t.Context()))
	must.Eq(t, map[string]string{"a/y": "y"}, tree(t, out))
}

// Wherever a worker dies while it replaces a directory, the new one is there in the end, and
// the old one does not come back.
func TestReplace_Killed(t *testing.T) {
	for name, last := range map[string]int{"before anything": 0, "recorded": 1, "moved": 2, "exchanged": 3, "partly removed": 4, "removed": 5} {
		for _, then := range []string{"published again", "swept"} {
			t.Run(name+", "+then, func(t *testing.T) {
				in, out := local(t)
				publishDir(t, out, map[string]string{"old": "old", "sub/old": "old"})
				f := open(t, Config{InputDirs: []string{in}, Output: out, Name: "{name}"})
				w, _ := doDir(t, f, at(1, "a/x"), map[string]string{"new": "new"})
				p := f.place.(*dirPlace)
				from, to := p.url(w.key, "x"), filepath.Join(out, "x")
				_, next := p.recordOf("x")
				there, err := inode(to)
				must.NoError(t, err)
				ino, err := inode(from)
				must.NoError(t, err)
				for i, step := range []func() error{
					func() error { return p.writeRecord(record{"x", there, ino}) },
					func() error { return os.Rename(from, next) },
					func() error { return unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE) },
					func() error { return os.Remove(filepath.Join(next, "old")) },
					func() error { return os.RemoveAll(next) },
				} {
					if i < last {
						must.NoError(t, step())
					}
				}
				if then == "swept" {
					_, err = f.Sweep(t.Context(), Sweep{
						Item: func(context.Context, queue.ID) (queue.ItemStatus, error) {
							return queue.ItemStatus{State: "done", Claim: 1, Output: "o"}, nil
						},
						Mine: func(queue.ID, uint64) bool { return false },
					})
					must.NoError(t, err)
				} else {
					must.NoError(t, w.Publish(t.Context()))
					must.NoError(t, p.completeAll(t.Context())) // as the next sweep does
				}
				must.Eq(t, map[string]string{"x/new": "new"}, tree(t, out))
				left, err := filepath.Glob(filepath.Join(p.records(), "*.*"))
				must.NoError(t, err)
				must.SliceEmpty(t, left)
				// And the next one is not stopped by what is recorded.
				publishDir(t, out, map[string]string{"newer": "newer"})
				must.Eq(t, map[string]string{"x/newer": "newer"}, tree(t, out))
			})
		}
	}
}

// Many workers that publish the same outputs get in nobody's way.
func TestReplace_AtOnce(t *testing.T) {
	for range 20 {
		in, out := local(t)
		f := open(t, Config{InputDirs: []string{in}, Output: out})
		publish := func(w *Work) {
			var wg sync.WaitGroup
			errs := make([]error, 4)
			for i := range errs {
				wg.Go(func() { errs[i] = w.Publish(t.Context()) })
			}
			wg.Wait()
			for _, err := range errs {
				must.NoError(t, err)
			}
		}
		w, _ := doDir(t, f, at(1, "a/x"), map[string]string{"f": "1"})
		publish(w)
		w, _ = doDir(t, f, at(2, "a/x"), map[string]string{"g": "2"})
		publish(w)
		must.Eq(t, map[string]string{"a/x/g": "2"}, tree(t, out))
	}
}

// The files of a directory that an earlier queue of this name has left in the place of an
// attempt are not published with those of the attempt.
func TestS3_LeftOver(t *testing.T) {
	s := newStore(t)
	in, _ := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: "s3://b/out" + s.query, Name: "{name}"})
	doDir(t, f, at(1, "a/x"), map[string]string{"old": "old"})
	w, _ := doDir(t, f, at(1, "a/x"), map[string]string{"new": "new"})
	must.NoError(t, w.Publish(t.Context()))
	must.Eq(t, map[string]string{"out/x/new": "new"}, f.keys(t, s))
}

// A link within a directory that is an output can be the input of the next stage.
func TestLinkAsInput(t *testing.T) {
	in, out := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: out, Name: "{name}"})
	a := at(1, "a/x")
	w, err := f.Begin(t.Context(), a)
	must.NoError(t, err)
	fill(t, a.Output, map[string]string{"v1": "one", "dir/f": "two"})
	must.NoError(t, os.Symlink("v1", filepath.Join(a.Output, "latest")))
	must.NoError(t, os.Symlink("dir", filepath.Join(a.Output, "latestdir")))
	told, err := w.Finish(t.Context())
	must.NoError(t, err)
	for _, c := range []struct{ input, file, want string }{{"latest", "", "one"}, {"latestdir", "f", "two"}} {
		next := at(2, filepath.Join(told.URL, c.input))
		nw, err := f.Begin(t.Context(), next)
		must.NoError(t, err)
		text, err := os.ReadFile(filepath.Join(next.Input, c.file))
		must.NoError(t, err)
		must.Eq(t, c.want, string(text))
		must.NoError(t, nw.Close())
	}
}
