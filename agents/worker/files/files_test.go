package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
	"gocloud.dev/blob"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/attempt"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is an S3 server in this process, with a bucket "b".
type store struct {
	query   string // that URLs of it need
	down    atomic.Bool
	copying atomic.Pointer[func()] // called before an object is copied
}

func newStore(t *testing.T) *store {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_MAX_ATTEMPTS": "1",
	} {
		t.Setenv(name, value)
	}
	backend := s3mem.New()
	must.NoError(t, backend.CreateBucket("b"))
	s := &store{}
	api := gofakes3.New(backend).Server()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if fn := s.copying.Load(); fn != nil && r.Header.Get("X-Amz-Copy-Source") != "" {
			(*fn)()
		}
		api.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	s.query = "?region=us-east-1&use_path_style=true&endpoint=" + server.URL
	return s
}

// put and get are for what is in the bucket.
func (f *Files) put(t *testing.T, s *store, key, text string) {
	t.Helper()
	b, err := f.buckets.get(t.Context(), "s3://b"+s.query)
	must.NoError(t, err)
	must.NoError(t, b.WriteAll(t.Context(), key, []byte(text), nil))
}

func (f *Files) keys(t *testing.T, s *store) map[string]string {
	t.Helper()
	b, err := f.buckets.get(t.Context(), "s3://b"+s.query)
	must.NoError(t, err)
	all := map[string]string{}
	for it := b.List(nil); ; {
		o, err := it.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return all
		}
		must.NoError(t, err)
		text, err := b.ReadAll(t.Context(), o.Key)
		must.NoError(t, err)
		all[o.Key] = string(text)
	}
}

func open(t *testing.T, cfg Config) *Files {
	t.Helper()
	cfg.Queue, cfg.WorkDir = "q", t.TempDir()
	f, err := New(t.Context(), cfg)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, f.Close()) })
	return f
}

func at(claim uint64, input string) *attempt.Attempt {
	return &attempt.Attempt{Queue: "q", ID: queue.ID{Seq: 7}, Claim: claim, Item: queue.Item{Input: input}}
}

// do is an attempt up to its ack.
func do(t *testing.T, f *Files, a *attempt.Attempt) (*Work, Output) {
	t.Helper()
	w, err := f.Begin(t.Context(), a)
	must.NoError(t, err)
	in, err := os.ReadFile(a.Input)
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(a.Output, fmt.Appendf(in, " by %d", a.Claim), 0o600))
	out, err := w.Finish(t.Context())
	must.NoError(t, err)
	must.NoError(t, w.Close())
	return w, out
}

// tree is the files below a directory.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must.NoError(t, filepath.Walk(dir, func(p string, info os.FileInfo, err error) error {
		if info != nil && info.Name() == ".directories" {
			return filepath.SkipDir
		}
		if err != nil || info.IsDir() {
			return err
		}
		text, err := os.ReadFile(p)
		all[p[len(dir)+1:]] = string(text)
		return err
	}))
	return all
}

// local is a directory with an input "a/x", and one for outputs.
func local(t *testing.T) (in, out string) {
	t.Helper()
	in, out = t.TempDir(), t.TempDir()
	must.NoError(t, os.Mkdir(filepath.Join(in, "a"), 0o700))
	must.NoError(t, os.WriteFile(filepath.Join(in, "a/x"), []byte("text"), 0o600))
	return in, out
}

func TestLocal(t *testing.T) {
	in, out := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: out})
	frozen, _ := do(t, f, at(1, "a/x"))
	winner, told := do(t, f, at(2, "a/x"))
	must.Eq(t, filepath.Join(out, ".wq/q/0-7.2.2/a/x"), told.URL)
	must.NoError(t, winner.Publish(t.Context()))
	must.NoError(t, winner.Publish(t.Context())) // twice is once
	must.NoError(t, frozen.Discard(t.Context()))
	must.Eq(t, map[string]string{"a/x": "text by 2"}, tree(t, out))
	// The next stage finds what it was told under the published name.
	next := at(3, told.URL)
	w, err := f.Begin(t.Context(), next)
	must.NoError(t, err)
	text, err := os.ReadFile(next.Input)
	must.NoError(t, err)
	must.Eq(t, "text by 2", string(text))
	must.NoError(t, w.Close())
}

func TestS3(t *testing.T) {
	s := newStore(t)
	f := open(t, Config{InputURLs: []string{"s3://b/in/" + s.query}, Output: "s3://b/out" + s.query})
	f.put(t, s, "in/a/x", "text")
	frozen, _ := do(t, f, at(1, "s3://b/in/a/x"))
	winner, _ := do(t, f, at(2, "s3://b/in/a/x"+s.query))
	must.NoError(t, winner.Publish(t.Context()))
	must.NoError(t, winner.Publish(t.Context()))
	must.NoError(t, frozen.Discard(t.Context()))
	must.Eq(t, map[string]string{"in/a/x": "text", "out/a/x": "text by 2"}, f.keys(t, s))
}

// A store that is down is not the item's fault, and is found to be up again.
func TestS3Down(t *testing.T) {
	s := newStore(t)
	f := open(t, Config{Output: "s3://b/out" + s.query})
	f.put(t, s, "x", "text")
	a := at(1, "s3://b/x"+s.query)
	s.down.Store(true)
	w, err := f.Begin(t.Context(), a)
	must.ErrorIs(t, err, ErrDown)
	must.Error(t, f.Probe(t.Context()))
	must.NoError(t, w.Close())
	s.down.Store(false)
	must.NoError(t, f.Probe(t.Context()))
	w, _ = do(t, f, at(2, "s3://b/x"+s.query))
	must.NoError(t, w.Publish(t.Context()))
	must.Eq(t, "text by 2", f.keys(t, s)["out/x"])
}

func TestRefusedInputs(t *testing.T) {
	in, out := local(t)
	secret := filepath.Join(t.TempDir(), "secret")
	must.NoError(t, os.WriteFile(secret, nil, 0o600))
	must.NoError(t, os.Symlink(secret, filepath.Join(in, "link")))
	f := open(t, Config{InputDirs: []string{in}, InputURLs: []string{"s3://b/in/?region=x"}, Output: out})
	for name, c := range map[string]struct {
		input, text string
		bad         bool // no attempt can go well
	}{
		"missing":       {"a/none", "no such file", false},
		"escape":        {"../secret", "in none of the directories", true},
		"outside":       {secret, "in none of the directories", true},
		"link":          {"link", "is a link to", true},
		"zero byte":     {"a\x00", "zero byte", true},
		"other bucket":  {"s3://c/in/x", "begins with none", true},
		"other server":  {"s3://b/in/x?endpoint=http://elsewhere", "another query", true},
		"no key":        {"s3://b/", "names no file", true},
		"special file":  {"file:///dev/null", "in none of the directories", true},
		"reserved name": {".wq/x", "is for attempts", true},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := f.Begin(t.Context(), at(1, c.input))
			must.ErrorContains(t, err, c.text)
			must.Eq(t, c.bad, isBad(err))
			if w != nil {
				must.NoError(t, w.Close())
			}
		})
	}
	must.MapEmpty(t, tree(t, out))
}

func isBad(err error) bool {
	return errors.Is(err, ErrBad)
}

func TestNoOutput(t *testing.T) {
	in, out := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: out})
	a := at(1, "a/x")
	w, err := f.Begin(t.Context(), a)
	must.NoError(t, err)
	_, err = w.Finish(t.Context())
	must.ErrorIs(t, err, ErrNoOutput)
	must.NoError(t, w.Close())
}

// What a worker has left that died between ack and publishing.
func TestSweep(t *testing.T) {
	for name, c := range map[string]struct {
		state  queue.ItemStatus
		err    error
		want   string // what is published in the end
		before string // what was before
		kept   int    // files
	}{
		"done":             {state: queue.ItemStatus{State: "done", Claim: 2, Output: "o"}, want: "text by 2", kept: 1},
		"held":             {state: queue.ItemStatus{State: "held", Claim: 2, Output: "o"}, want: "text by 2", kept: 1},
		"still claimed":    {state: queue.ItemStatus{State: "claimed", Claim: 2}, kept: 1},
		"lost, not given":  {state: queue.ItemStatus{State: "ready", Claim: 2}, kept: 1},
		"another attempt":  {state: queue.ItemStatus{State: "done", Claim: 3, Output: "o"}},
		"dead":             {state: queue.ItemStatus{State: "dead", Claim: 2}},
		"forgotten":        {err: queue.ErrUnknownItem, want: "text by 2", kept: 1},
		"forgotten, taken": {err: queue.ErrUnknownItem, before: "other", want: "other", kept: 2},
		"no broker":        {err: context.DeadlineExceeded, kept: 1},
	} {
		t.Run(name, func(t *testing.T) {
			in, out := local(t)
			f := open(t, Config{InputDirs: []string{in}, Output: out})
			do(t, f, at(1, "a/x")) // a stale one
			do(t, f, at(2, "a/x"))
			must.NoError(t, os.RemoveAll(filepath.Join(out, ".wq/q/0-7.1.2")))
			if c.before != "" {
				must.NoError(t, os.Mkdir(filepath.Join(out, "a"), 0o700))
				must.NoError(t, os.WriteFile(filepath.Join(out, "a/x"), []byte(c.before), 0o600))
			}
			_, err := f.Sweep(t.Context(), Sweep{
				Item: func(context.Context, queue.ID) (queue.ItemStatus, error) { return c.state, c.err },
				Mine: func(queue.ID, uint64) bool { return false },
				Now:  func() time.Time { return time.Now().Add(time.Hour) },
			})
			must.Eq(t, c.err != nil && !errors.Is(c.err, queue.ErrUnknownItem), err != nil)
			all := tree(t, out)
			must.Eq(t, c.want, all["a/x"])
			must.MapLen(t, c.kept, all)
		})
	}
}

// fill makes a directory with files, and returns it.
func fill(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	must.NoError(t, os.Mkdir(dir, 0o700))
	for name, text := range files {
		must.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700))
		must.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}

// doDir is an attempt whose output is a directory, up to its ack.
func doDir(t *testing.T, f *Files, a *attempt.Attempt, files map[string]string) (*Work, Output) {
	t.Helper()
	w, err := f.Begin(t.Context(), a)
	must.NoError(t, err)
	fill(t, a.Output, files)
	out, err := w.Finish(t.Context())
	must.NoError(t, err)
	must.True(t, out.Dir)
	must.NoError(t, w.Close())
	return w, out
}

// of is the URL of a file in a directory that has one, with a query or not.
func of(dir, name string) string {
	base, query, is := strings.Cut(dir, "?")
	if base += "/" + name; is {
		base += "?" + query
	}
	return base
}

// read is the text of an input, as a program gets it.
func read(t *testing.T, f *Files, claim uint64, input string) string {
	t.Helper()
	a := at(claim, input)
	w, err := f.Begin(t.Context(), a)
	must.NoError(t, err)
	text, err := os.ReadFile(a.Input)
	must.NoError(t, err)
	must.NoError(t, w.Close())
	return string(text)
}

// Of two attempts whose outputs are directories only one is published, and nothing of the
// other is in it.
func TestDirLocal(t *testing.T) {
	in, out := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: out})
	frozen, _ := doDir(t, f, at(1, "a/x"), map[string]string{"both": "1", "sub/first": "1"})
	winner, told := doDir(t, f, at(2, "a/x"), map[string]string{"both": "2", "sub/deep/second": "2"})
	must.Eq(t, filepath.Join(out, ".wq/q/0-7.2.2/a/x"), told.URL)
	_, err := os.Stat(filepath.Join(out, "a"))
	must.ErrorIs(t, err, os.ErrNotExist) // not before the ack
	must.Eq(t, "2", read(t, f, 3, of(told.URL, "sub/deep/second")))
	must.NoError(t, winner.Publish(t.Context()))
	must.NoError(t, winner.Publish(t.Context()))
	must.Eq(t, "2", read(t, f, 3, of(told.URL, "sub/deep/second"))) // under the published name
	must.NoError(t, frozen.Discard(t.Context()))
	must.Eq(t, map[string]string{"a/x/both": "2", "a/x/sub/deep/second": "2"}, tree(t, out))
}

func TestDirS3(t *testing.T) {
	s := newStore(t)
	in, _ := local(t)
	f := open(t, Config{InputDirs: []string{in}, InputURLs: []string{"s3://b/in/" + s.query}, Output: "s3://b/out" + s.query})
	const odd = "sub/ä ö+%41&=#.txt" // has to be quoted in URLs, and is to arrive as it is
	frozen, _ := doDir(t, f, at(1, "a/x"), map[string]string{"both": "1", "sub/first": "1"})
	winner, told := doDir(t, f, at(2, "a/x"), map[string]string{"both": "2", "sub/deep/second": "2", odd: "odd", "empty": ""})
	must.Eq(t, "s3://b/out/.wq/q/0-7.2.2/a/x"+s.query, told.URL)
	must.Eq(t, map[string]string{
		"out/.wq/q/0-7.1.2/a/x/both": "1", "out/.wq/q/0-7.1.2/a/x/sub/first": "1",
		"out/.wq/q/0-7.2.2/a/x/both": "2", "out/.wq/q/0-7.2.2/a/x/sub/deep/second": "2",
		"out/.wq/q/0-7.2.2/a/x/" + odd: "odd", "out/.wq/q/0-7.2.2/a/x/empty": "",
	}, f.keys(t, s))
	must.Eq(t, "2", read(t, f, 3, of(told.URL, "sub/deep/second")))
	must.NoError(t, winner.Publish(t.Context()))
	must.NoError(t, winner.Publish(t.Context()))
	must.Eq(t, "2", read(t, f, 3, of(told.URL, "sub/deep/second")))
	must.NoError(t, frozen.Discard(t.Context()))
	must.Eq(t, map[string]string{
		"out/a/x/both": "2", "out/a/x/sub/deep/second": "2", "out/a/x/" + odd: "odd", "out/a/x/empty": "",
	}, f.keys(t, s))
}

// There may be more files than one page of a listing has.
func TestLargeDirS3(t *testing.T) {
	s := newStore(t)
	in, _ := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: "s3://b/out" + s.query, Name: "{name}"})
	files, want := map[string]string{}, map[string]bool{}
	for i := range 1001 {
		name := fmt.Sprintf("%04d", i)
		files[name], want["out/x/"+name] = "", true
	}
	w, _ := doDir(t, f, at(1, "a/x"), files)
	must.NoError(t, w.Publish(t.Context()))
	b, err := f.buckets.get(t.Context(), "s3://b"+s.query)
	must.NoError(t, err)
	got := map[string]bool{}
	must.NoError(t, each(t.Context(), b, "", func() {}, func(o *blob.ListObject) error {
		got[o.Key] = true
		return nil
	}))
	must.Eq(t, want, got)
}

// A worker that died while it published file by file is followed by another one.
func TestHalfPublishedDirS3(t *testing.T) {
	s := newStore(t)
	in, _ := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: "s3://b/out" + s.query, Name: "{name}"})
	w, _ := doDir(t, f, at(1, "a/x"), map[string]string{"a": "1", "b": "2", "c": "3"})
	b, err := f.buckets.get(t.Context(), "s3://b"+s.query)
	must.NoError(t, err)
	for _, name := range []string{"a", "b"} {
		must.NoError(t, b.Copy(t.Context(), "out/x/"+name, "out/.wq/q/0-7.1.1/x/"+name, nil))
	}
	must.NoError(t, b.Delete(t.Context(), "out/.wq/q/0-7.1.1/x/a"))
	must.NoError(t, w.Publish(t.Context()))
	must.Eq(t, map[string]string{"out/x/a": "1", "out/x/b": "2", "out/x/c": "3"}, f.keys(t, s))
}

// Two workers that sweep publish the same output: one of them has listed what the other one
// then moves away.
func TestPublishedByOthersS3(t *testing.T) {
	s := newStore(t)
	in, _ := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: "s3://b/out" + s.query, Name: "{name}"})
	w, _ := doDir(t, f, at(1, "a/x"), map[string]string{"a": "1", "b": "2"})
	other := make(chan error, 1)
	s.copying.Store(new(func() {
		s.copying.Store(nil)
		other <- w.Publish(t.Context())
	}))
	must.NoError(t, w.Publish(t.Context()))
	must.NoError(t, <-other)
	must.Eq(t, map[string]string{"out/x/a": "1", "out/x/b": "2"}, f.keys(t, s))
}

// What is under the name already is replaced, and nothing of it stays, whatever it is,
// except a directory that is no output.
func TestReplacedByDir(t *testing.T) {
	for name, before := range map[string]func(t *testing.T, path string){
		"directory": func(t *testing.T, path string) {
			publishDir(t, filepath.Dir(path), map[string]string{"same": "old", "old": "old"})
		},
		"empty": func(t *testing.T, path string) { fill(t, path, nil) },
		"file":  func(t *testing.T, path string) { must.NoError(t, os.WriteFile(path, []byte("old"), 0o600)) },
		"link":  func(t *testing.T, path string) { must.NoError(t, os.Symlink(t.TempDir(), path)) },
	} {
		t.Run(name, func(t *testing.T) {
			in, out := local(t)
			f := open(t, Config{InputDirs: []string{in}, Output: out, Name: "{name}"})
			before(t, filepath.Join(out, "x"))
			w, _ := doDir(t, f, at(1, "a/x"), map[string]string{"same": "new", "sub/new": "new"})
			must.NoError(t, w.Publish(t.Context()))
			must.NoError(t, w.Publish(t.Context()))
			must.Eq(t, map[string]string{"x/same": "new", "x/sub/new": "new"}, tree(t, out))
		})
	}
}

// A file takes the place of a directory, too.
func TestDirReplacedByFile(t *testing.T) {
	in, out := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: out, Name: "{name}"})
	publishDir(t, out, map[string]string{"old": "old"})
	w, _ := do(t, f, at(1, "a/x"))
	must.NoError(t, w.Publish(t.Context()))
	must.Eq(t, map[string]string{"x": "text by 1"}, tree(t, out))
}

// A directory without files is an output in a directory, but nothing that a blob store
// could keep.
func TestEmptyDir(t *testing.T) {
	in, out := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: out})
	w, _ := doDir(t, f, at(1, "a/x"), nil)
	must.NoError(t, w.Publish(t.Context()))
	entries, err := os.ReadDir(filepath.Join(out, "a/x"))
	must.NoError(t, err)
	must.SliceEmpty(t, entries)
	must.DirNotExists(t, filepath.Join(out, ".wq/q/0-7.1.2"))

	s := newStore(t)
	f = open(t, Config{InputDirs: []string{in}, Output: "s3://b/out" + s.query})
	for name, below := range map[string]func(dir string) error{
		"empty":       func(string) error { return nil },
		"empty below": func(dir string) error { return os.MkdirAll(filepath.Join(dir, "sub/deep"), 0o700) },
		"a link":      func(dir string) error { return os.Symlink(filepath.Join(in, "a/x"), filepath.Join(dir, "link")) },
	} {
		t.Run(name, func(t *testing.T) {
			a := at(1, "a/x")
			w, err := f.Begin(t.Context(), a)
			must.NoError(t, err)
			must.NoError(t, below(fill(t, a.Output, nil)))
			_, err = w.Finish(t.Context())
			must.ErrorIs(t, err, ErrNoOutput)
			must.ErrorContains(t, err, "the directory is empty, which a blob store cannot keep")
			must.NoError(t, w.Discard(t.Context()))
			must.NoError(t, w.Close())
			must.MapEmpty(t, f.keys(t, s))
		})
	}
}

// oddities are a directory with a file, and what is none beside it.
func oddities(t *testing.T, dir, secret string) {
	t.Helper()
	fill(t, dir, map[string]string{"file": "f", "sub/file": "s"})
	must.NoError(t, os.Symlink(secret, filepath.Join(dir, "link")))
	must.NoError(t, os.Symlink(filepath.Dir(secret), filepath.Join(dir, "linked")))
	must.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	must.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
}

// Links and pipes in a directory stay in a local one, unread, and do not get to a blob
// store or to the next stage.
func TestOddFiles(t *testing.T) {
	in, out := local(t)
	secret := filepath.Join(t.TempDir(), "secret")
	must.NoError(t, os.WriteFile(secret, []byte("secret"), 0o600))
	f := open(t, Config{InputDirs: []string{in}, Output: out})
	a := at(1, "a/x")
	w, err := f.Begin(t.Context(), a)
	must.NoError(t, err)
	oddities(t, a.Output, secret)
	told, err := w.Finish(t.Context())
	must.NoError(t, err)
	must.NoError(t, w.Close())
	next := at(2, told.URL)
	nextWork, err := f.Begin(t.Context(), next)
	must.NoError(t, err)
	must.Eq(t, map[string]string{"file": "f", "sub/file": "s"}, tree(t, next.Input))
	must.NoError(t, w.Publish(t.Context()))
	must.Eq(t, map[string]string{"file": "f", "sub/file": "s"}, tree(t, next.Input)) // it stays while it is used
	must.NoError(t, nextWork.Close())
	entries, err := os.ReadDir(filepath.Join(out, "a/x"))
	must.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	must.Eq(t, []string{"dangling", "file", "link", "linked", "pipe", "sub"}, names)
	// Who names a link as an input does not get out of the directories either.
	for _, name := range []string{"link", "linked"} {
		w, err = f.Begin(t.Context(), at(3, of(told.URL, name)))
		must.ErrorContains(t, err, "in none of the directories")
		must.True(t, isBad(err))
		must.NoError(t, w.Close())
	}

	s := newStore(t)
	f = open(t, Config{InputDirs: []string{in}, Output: "s3://b/out" + s.query})
	a = at(1, "a/x")
	w, err = f.Begin(t.Context(), a)
	must.NoError(t, err)
	oddities(t, a.Output, secret)
	_, err = w.Finish(t.Context())
	must.NoError(t, err)
	must.NoError(t, w.Close())
	must.NoError(t, w.Publish(t.Context()))
	must.Eq(t, map[string]string{"out/a/x/file": "f", "out/a/x/sub/file": "s"}, f.keys(t, s))
}

// An output has to be a file or a directory by itself.
func TestOddOutputs(t *testing.T) {
	in, out := local(t)
	s := newStore(t)
	for name, c := range map[string]struct {
		make func(path string) error
		text string
	}{
		"link to a file":      {func(path string) error { return os.Symlink(filepath.Join(in, "a/x"), path) }, "but L---------"},
		"link to a directory": {func(path string) error { return os.Symlink(in, path) }, "but L---------"},
		"pipe":                {func(path string) error { return syscall.Mkfifo(path, 0o600) }, "but p---------"},
	} {
		for _, place := range []string{out, "s3://b/out" + s.query} {
			t.Run(name, func(t *testing.T) {
				f := open(t, Config{InputDirs: []string{in}, Output: place})
				a := at(1, "a/x")
				w, err := f.Begin(t.Context(), a)
				must.NoError(t, err)
				must.NoError(t, c.make(a.Output))
				_, err = w.Finish(t.Context())
				must.ErrorContains(t, err, "the output is no file and no directory, "+c.text)
				must.NoError(t, w.Publish(t.Context())) // there is nothing to publish
				must.NoError(t, w.Close())
				must.MapEmpty(t, f.keys(t, s))
				must.MapEmpty(t, tree(t, out))
			})
		}
	}
}

// A directory in a blob store is no input, its files are; also when the next stage was told
// of the directory before it was published.
func TestDirInputS3(t *testing.T) {
	s := newStore(t)
	in, _ := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: "s3://b/out" + s.query})
	f.put(t, s, "in/dir/file", "text")
	w, told := doDir(t, f, at(1, "a/x"), map[string]string{"file": "f"})
	for range 2 {
		for _, input := range []string{"s3://b/in/dir" + s.query, told.URL} {
			refused, err := f.Begin(t.Context(), at(2, input))
			must.ErrorContains(t, err, "is not there")
			must.False(t, errors.Is(err, ErrDown))
			must.NoError(t, refused.Close())
		}
		_, err := f.Begin(t.Context(), at(2, "s3://b/in/dir/"+s.query))
		must.ErrorContains(t, err, "names no file of the bucket")
		must.True(t, isBad(err))
		must.NoError(t, w.Publish(t.Context()))
	}
	must.Eq(t, "text", read(t, f, 3, "s3://b/in/dir/file"+s.query))
}

// A directory on this machine is an input where it is, and one among several of a merge.
func TestDirInputLocal(t *testing.T) {
	in, out := local(t)
	f := open(t, Config{InputDirs: []string{in}, Output: out})
	a := at(1, "a")
	w, err := f.Begin(t.Context(), a)
	must.NoError(t, err)
	must.Eq(t, filepath.Join(in, "a"), a.Input)
	must.NoError(t, w.Close())

	kept, told := doDir(t, f, at(2, "a/x"), map[string]string{"sub/file": "kept"})
	for range 2 {
		merge := at(3, "")
		merge.Item.Inputs = []string{"a", told.URL, of(told.URL, "sub/file")}
		w, err = f.Begin(t.Context(), merge)
		must.NoError(t, err)
		for name, want := range map[string]string{"000001-a/x": "text", "000002-x/sub/file": "kept", "000003-file": "kept"} {
			text, err := os.ReadFile(filepath.Join(merge.Input, name))
			must.NoError(t, err)
			must.Eq(t, want, string(text))
		}
		must.NoError(t, w.Close())
		must.NoError(t, kept.Publish(t.Context()))
	}
	must.Eq(t, map[string]string{"a/x/sub/file": "kept"}, tree(t, out))
}

// A dispatched job uploads by itself. What it leaves below the name is no output, since
// nobody can say whether it is whole, and is removed.
func TestRemoteDirS3(t *testing.T) {
	s := newStore(t)
	f := open(t, Config{Output: "s3://b/out" + s.query, Remote: true})
	a := at(1, "s3://b/x"+s.query)
	w, err := f.Begin(t.Context(), a)
	must.NoError(t, err)
	must.Eq(t, "s3://b/out/.wq/q/0-7.1.1/x"+s.query, a.Output)
	f.put(t, s, "out/.wq/q/0-7.1.1/x/file", "text")
	f.put(t, s, "out/.wq/q/0-7.11.1/x", "another attempt")
	_, err = w.Finish(t.Context())
	must.ErrorIs(t, err, ErrNoOutput)
	must.NoError(t, w.Discard(t.Context()))
	must.NoError(t, w.Close())
	must.Eq(t, map[string]string{"out/.wq/q/0-7.11.1/x": "another attempt"}, f.keys(t, s))
}

// What a worker has left of directories that died between ack and publishing. A forgotten
// one in a blob store may be half published, so nobody may decide.
func TestSweepDirs(t *testing.T) {
	done := queue.ItemStatus{State: "done", Claim: 2, Output: "o"}
	for name, c := range map[string]struct {
		state     queue.ItemStatus
		err       error
		s3        bool
		published bool // else the attempt is still there, or
		removed   bool
		unsure    bool
	}{
		"done":             {state: done, published: true},
		"done, S3":         {state: done, published: true, s3: true},
		"dead":             {state: queue.ItemStatus{State: "dead", Claim: 2}, removed: true},
		"dead, S3":         {state: queue.ItemStatus{State: "dead", Claim: 2}, removed: true, s3: true},
		"claimed, S3":      {state: queue.ItemStatus{State: "claimed", Claim: 2}, s3: true},
		"forgotten":        {err: queue.ErrUnknownItem, published: true},
		"forgotten, S3":    {err: queue.ErrUnknownItem, s3: true, unsure: true},
		"no broker, S3":    {err: context.DeadlineExceeded, s3: true},
		"later attempt":    {state: queue.ItemStatus{State: "done", Claim: 3, Output: "o"}, removed: true},
		"later attempt,S3": {state: queue.ItemStatus{State: "done", Claim: 3, Output: "o"}, removed: true, s3: true},
	} {
		t.Run(name, func(t *testing.T) {
			in, place := local(t)
			all, base := func(f *Files) map[string]string { return tree(t, place) }, ""
			if c.s3 {
				s := newStore(t)
				all, base, place = func(f *Files) map[string]string { return f.keys(t, s) }, "out/", "s3://b/out"+s.query
			}
			f := open(t, Config{InputDirs: []string{in}, Output: place})
			doDir(t, f, at(2, "a/x"), map[string]string{"1": "one", "sub/2": "two"})
			swept, err := f.Sweep(t.Context(), Sweep{
				Item: func(context.Context, queue.ID) (queue.ItemStatus, error) { return c.state, c.err },
				Mine: func(queue.ID, uint64) bool { return false },
				Now:  func() time.Time { return time.Now().Add(time.Hour) },
			})
			must.Eq(t, c.err != nil && !errors.Is(c.err, queue.ErrUnknownItem), err != nil)
			must.Eq(t, c.unsure, len(swept.Unsure) == 1)
			at := base + ".wq/q/0-7.2.2/a/x/"
			switch {
			case c.published:
				at = base + "a/x/"
			case c.removed:
				must.MapEmpty(t, all(f))
				return
			}
			must.Eq(t, map[string]string{at + "1": "one", at + "sub/2": "two"}, all(f))
		})
	}
}

func FuzzKey(f *testing.F) {
	f.Add("0-7.2.2")
	f.Fuzz(func(t *testing.T, s string) {
		if k, ok := parseKey(s); ok {
			must.Eq(t, s, k.String())
		}
	})
}
