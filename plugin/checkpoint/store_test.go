package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/shoenig/test/must"
)

// s3Server is an S3 server in this process, with a bucket "b".
type s3Server struct {
	url       string // of the bucket, with a prefix
	forgetful atomic.Bool
	status    atomic.Int64 // that is answered instead, if not 0
}

func newS3(t *testing.T) *s3Server {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_MAX_ATTEMPTS": "1",
	} {
		t.Setenv(name, value)
	}
	backend := s3mem.New()
	must.NoError(t, backend.CreateBucket("b"))
	s := &s3Server{}
	api := gofakes3.New(backend).Server()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.forgetful.Load() {
			r.Header.Del("If-None-Match")
		}
		if status := s.status.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		api.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	s.url = "s3://b/some/where?region=us-east-1&use_path_style=true&endpoint=" + server.URL
	return s
}

func openBlob(t *testing.T, url string) Store {
	t.Helper()
	store, err := OpenBlob(t.Context(), url)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, store.Close()) })
	return store
}

// TestStores checks what every store has to do.
func TestStores(t *testing.T) {
	stores := map[string]func(t *testing.T) Store{
		"memory": func(*testing.T) Store { return &mem{shared: newShared()} },
		"file":   func(t *testing.T) Store { return openBlob(t, "file://"+t.TempDir()) },
		"s3":     func(t *testing.T) Store { return openBlob(t, newS3(t).url) },
		"consul": func(t *testing.T) Store { return newConsul(t, newFakeConsul(t), ConsulConfig{}) },
	}
	for name, open := range stores {
		t.Run(name, func(t *testing.T) { checkStore(t, open(t)) })
	}
}

func checkStore(t *testing.T, store Store) {
	ctx := t.Context()
	a, b := prefix+"00000001/00000001.data", prefix+"00000001/owner"
	sorted := func(names []string, err error) []string {
		must.NoError(t, err)
		slices.Sort(names)
		return names
	}

	must.SliceEmpty(t, sorted(store.List(ctx, prefix)))
	_, err := store.Get(ctx, a, 100)
	must.ErrorIs(t, err, ErrNotFound)
	must.NoError(t, store.Delete(ctx, a))

	must.NoError(t, store.Create(ctx, a, []byte("state")))
	must.ErrorIs(t, store.Create(ctx, a, []byte("other")), ErrExists)
	must.ErrorIs(t, store.Create(ctx, a, []byte("state")), ErrExists)
	must.NoError(t, store.Create(ctx, b, []byte("me")))
	data, err := store.Get(ctx, a, 5)
	must.NoError(t, err)
	must.Eq(t, "state", string(data))
	_, err = store.Get(ctx, a, 4)
	var tooLarge *TooLargeError
	must.True(t, errors.As(err, &tooLarge), must.Sprint(err))
	must.Eq(t, 4, tooLarge.Limit)

	// A list does not show others', even if they begin alike.
	other := "lifecycle/checkpoints/default/shop/web/0/server2/"
	must.NoError(t, store.Create(ctx, other+"00000001/owner", []byte("x")))
	must.Eq(t, []string{a, b}, sorted(store.List(ctx, prefix)))
	must.Eq(t, []string{other + "00000001/owner"}, sorted(store.List(ctx, other)))

	must.NoError(t, store.Delete(ctx, a))
	must.NoError(t, store.Delete(ctx, a))
	must.Eq(t, []string{b}, sorted(store.List(ctx, prefix)))
	_, err = store.Get(ctx, a, 100)
	must.ErrorIs(t, err, ErrNotFound)
	must.NoError(t, store.Create(ctx, a, []byte("again")))

	// Names of any identity come back as they are.
	odd, err := Identity{"a b", "x__0x2f__y/..", "%2F", "0", strings.Repeat("ü", 100)}.prefix()
	must.NoError(t, err)
	must.NoError(t, store.Create(ctx, odd+"00000001/owner", []byte("odd")))
	must.Eq(t, []string{odd + "00000001/owner"}, sorted(store.List(ctx, odd)))

	// Larger than the parts in which things are sent.
	large := bytes.Repeat([]byte("0123456789abcdef"), consulLimit/16)
	must.NoError(t, store.Create(ctx, prefix+"00000002/00000001.data", large))
	data, err = store.Get(ctx, prefix+"00000002/00000001.data", int64(len(large)))
	must.NoError(t, err)
	must.True(t, bytes.Equal(large, data))

	// Of many who create one object at the same time one succeeds.
	var wg sync.WaitGroup
	var made atomic.Int64
	for i := range 8 {
		wg.Go(func() {
			switch err := store.Create(ctx, prefix+"00000003/owner", fmt.Append(nil, i)); {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, ErrExists):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must.Eq(t, 1, made.Load())

	// An end of the context is an end.
	done, cancel := context.WithCancel(ctx)
	cancel()
	for _, err := range []error{
		store.Create(done, prefix+"00000004/owner", nil), store.Delete(done, b),
		errOf(store.Get(done, b, 100)), errOf(store.List(done, prefix)),
	} {
		must.ErrorIs(t, err, context.Canceled)
		must.False(t, permanent(err))
	}
	must.SliceNotContains(t, sorted(store.List(ctx, prefix)), prefix+"00000004/owner")

	// And all of it together.
	c, err := Open(store, Identity{"n", "j", "g", "1", "t"}, Options{Keep: 1, MaxSize: 1 << 20})
	must.NoError(t, err)
	s := claim(t, c, "a")
	save(t, s, "one")
	save(t, s, strings.Repeat("two ", 10_000))
	must.NoError(t, s.End(ctx, "drained", false))
	s = claim(t, c, "b")
	must.Eq(t, strings.Repeat("two ", 10_000), latest(t, c))
	save(t, s, "")
	l, err := c.Latest(ctx)
	must.NoError(t, err)
	must.NotNil(t, l.Checkpoint)
	must.SliceEmpty(t, l.Checkpoint.Data)
	must.SliceLen(t, 5, sorted(store.List(ctx, c.Prefix())))
	must.NoError(t, s.End(ctx, "stopped", true))
	must.Eq(t, "", latest(t, c))
}

func errOf[T any](_ T, err error) error { return err }

func TestOpenBlobRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must.NoError(t, os.WriteFile(file, nil, 0o600))
	cases := map[string]struct{ url, want string }{
		"no URL":         {"/srv/checkpoints", ":// is not known; use file:// or s3://"},
		"not parsed":     {"s3://%zz", "it is not a URL such as"},
		"another scheme": {"gs://bucket", "gs:// is not known; use file:// or s3://"},
		"password":       {"s3://user:hunter2@bucket", "without user and password"},
		"no bucket":      {"s3:///prefix", "the name of a bucket"},
		"host":           {"file://srv/checkpoints", "is not file:// and an absolute path"},
		"parameters":     {"file:///srv?create_dir=true", "without parameters"},
		"not there":      {"file://" + dir + "/missing", "make the directory once, below the mount point"},
		"a file":         {"file://" + file, "is not a directory"},
		"s3 parameter":   {"s3://b?region=eu&colour=red", "colour"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := OpenBlob(t.Context(), tc.url)
			must.ErrorContains(t, err, tc.want)
			must.StrNotContains(t, err.Error(), "hunter2")
		})
	}
	_, err := OpenDir(t.Context(), "relative")
	must.ErrorContains(t, err, "is not an absolute path")
}

func TestS3(t *testing.T) {
	t.Run("ignores the condition", func(t *testing.T) {
		server := newS3(t)
		server.forgetful.Store(true)
		store := openBlob(t, server.url)
		err := store.Create(t.Context(), prefix+"00000001/owner", []byte("me"))
		must.ErrorIs(t, err, ErrRefused)
		must.ErrorContains(t, err, "ignores If-None-Match")
		names, err := store.List(t.Context(), prefix)
		must.NoError(t, err)
		must.SliceEmpty(t, names)
		// And is mended while the process runs.
		server.forgetful.Store(false)
		must.NoError(t, store.Create(t.Context(), prefix+"00000001/owner", []byte("me")))
	})
	t.Run("no bucket", func(t *testing.T) {
		store := openBlob(t, strings.Replace(newS3(t).url, "s3://b/", "s3://other/", 1))
		must.ErrorIs(t, store.Create(t.Context(), prefix+"00000001/owner", nil), ErrRefused)
		_, err := store.List(t.Context(), prefix)
		must.ErrorIs(t, err, ErrRefused)
	})
	for status, permanently := range map[int]bool{401: true, 403: true, 409: false, 429: false, 503: false} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			server := newS3(t)
			store := openBlob(t, server.url)
			must.NoError(t, store.Create(t.Context(), prefix+"00000001/owner", nil))
			server.status.Store(int64(status))
			errs := []error{store.Create(t.Context(), prefix+"00000002/owner", nil)}
			if status < 500 { // the SDK itself tries others again, for seconds
				errs = append(errs, store.Delete(t.Context(), prefix+"00000001/owner"),
					errOf(store.Get(t.Context(), prefix+"00000001/owner", 100)), errOf(store.List(t.Context(), prefix)))
			}
			for _, err := range errs {
				must.Error(t, err)
				must.Eq(t, permanently, permanent(err), must.Sprint(err))
			}
		})
	}
	t.Run("multipart", func(t *testing.T) {
		store := openBlob(t, newS3(t).url)
		large := bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16)
		must.NoError(t, store.Create(t.Context(), prefix+"00000001/00000001.data", large))
		data, err := store.Get(t.Context(), prefix+"00000001/00000001.data", int64(len(large)))
		must.NoError(t, err)
		must.True(t, bytes.Equal(large, data))
	})
}
