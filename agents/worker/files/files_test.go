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
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/attempt"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is an S3 server in this process, with a bucket "b".
type store struct {
	query string // that URLs of it need
	down  atomic.Bool
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

func FuzzKey(f *testing.F) {
	f.Add("0-7.2.2")
	f.Fuzz(func(t *testing.T, s string) {
		if k, ok := parseKey(s); ok {
			must.Eq(t, s, k.String())
		}
	})
}
