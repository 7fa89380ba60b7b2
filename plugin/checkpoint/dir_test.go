package checkpoint

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func openDir(t *testing.T) *Dir {
	t.Helper()
	d, err := OpenDir(t.Context(), t.TempDir())
	must.NoError(t, err)
	return d
}

// files are those below a directory, relative to it.
func files(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	must.NoError(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(root, path)
			all = append(all, rel)
		}
		return err
	}))
	return all
}

func TestDirLeavesNothingHalfWritten(t *testing.T) {
	cases := map[string]struct {
		err  error
		want string
	}{
		"disk full":  {syscall.ENOSPC, "no space is left at"},
		"over quota": {syscall.EDQUOT, "no space is left at"},
		"broken":     {syscall.EIO, "input/output error"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := openDir(t)
			c := open(t, d, Options{})
			s := claim(t, c, "a")
			save(t, s, "good")
			before := files(t, d.root)
			d.write = func(f *os.File, data []byte) error {
				n, err := f.Write(data[:len(data)/2])
				if err != nil || n == 0 {
					t.Error("nothing was written")
				}
				return &fs.PathError{Op: "write", Path: f.Name(), Err: tc.err}
			}
			err := d.Create(t.Context(), prefix+"00000001/00000002.data", []byte("state"))
			must.ErrorContains(t, err, tc.want)
			must.Eq(t, !errors.Is(tc.err, syscall.EIO), permanent(err))
			must.Eq(t, before, files(t, d.root))
			must.Eq(t, "good", latest(t, c))
		})
	}
}

func TestDirIsPrivate(t *testing.T) {
	d := openDir(t)
	must.NoError(t, d.Create(t.Context(), prefix+"00000001/owner", []byte("me")))
	must.NoError(t, filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == d.root {
			return err
		}
		info, err := e.Info()
		must.Eq(t, 0, info.Mode().Perm()&0o077, must.Sprint(path))
		return err
	}))
}

// A mount that is missing is no empty store.
func TestDirGone(t *testing.T) {
	d := openDir(t)
	must.NoError(t, d.Create(t.Context(), prefix+"00000001/owner", []byte("me")))
	must.NoError(t, os.Rename(d.root, d.root+"-elsewhere"))
	for _, err := range []error{
		d.Create(t.Context(), prefix+"00000002/owner", nil), errOf(d.Get(t.Context(), prefix+"00000001/owner", 100)), errOf(d.List(t.Context(), prefix)),
	} {
		must.Error(t, err)
		must.False(t, errors.Is(err, ErrNotFound))
		must.False(t, permanent(err)) // it may be mounted again
	}
	_, err := os.Stat(d.root)
	must.ErrorIs(t, err, fs.ErrNotExist)
	must.NoError(t, os.Rename(d.root+"-elsewhere", d.root))
	_, err = d.Get(t.Context(), prefix+"00000001/owner", 100)
	must.NoError(t, err)
}

func TestDirRefusesNames(t *testing.T) {
	d := openDir(t)
	for _, name := range []string{"", ".", "..", "../x", "a/../../x", "/etc/x", "a//b", ".writing/x", "a/.x", "a/./b"} {
		must.ErrorIs(t, d.Create(t.Context(), name, nil), ErrRefused, must.Sprint(name))
		must.ErrorIs(t, errOf(d.Get(t.Context(), name, 1)), ErrRefused, must.Sprint(name))
		must.ErrorIs(t, errOf(d.List(t.Context(), name)), ErrRefused, must.Sprint(name))
		must.ErrorIs(t, d.Delete(t.Context(), name), ErrRefused, must.Sprint(name))
	}
	must.SliceEmpty(t, files(t, d.root))
}

func TestDirTidies(t *testing.T) {
	d := openDir(t)
	must.NoError(t, d.Create(t.Context(), prefix+"00000001/owner", nil))
	must.NoError(t, d.Create(t.Context(), prefix+"00000002/owner", nil))
	must.NoError(t, d.Delete(t.Context(), prefix+"00000001/owner"))
	must.DirNotExists(t, filepath.Join(d.root, prefix, "00000001"))
	must.NoError(t, d.Delete(t.Context(), prefix+"00000002/owner"))
	must.DirNotExists(t, filepath.Join(d.root, "lifecycle"))

	old, young := filepath.Join(d.root, scratch, "old"), filepath.Join(d.root, scratch, "young")
	must.NoError(t, os.WriteFile(old, nil, 0o600))
	must.NoError(t, os.WriteFile(young, nil, 0o600))
	long := time.Now().Add(-scratchAge - time.Hour)
	must.NoError(t, os.Chtimes(old, long, long))
	_, err := OpenDir(t.Context(), d.root)
	must.NoError(t, err)
	must.Eq(t, []string{scratch + "/young"}, files(t, d.root))
}

// While one removes what it thinks is empty, another creates there.
func TestDirMadeAndRemoved(t *testing.T) {
	d := openDir(t)
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		wg.Go(func() {
			for range 50 {
				if err := d.Create(t.Context(), "x/y/z/"+name, []byte(name)); err != nil {
					t.Error(err)
				}
				if err := d.Delete(t.Context(), "x/y/z/"+name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must.SliceEmpty(t, files(t, d.root))
}

// A file system that hangs holds nobody for longer than its context.
func TestDirHangs(t *testing.T) {
	d := openDir(t)
	release := make(chan struct{})
	hanging := make(chan struct{}, dirSlots)
	d.write = func(f *os.File, data []byte) error {
		hanging <- struct{}{}
		<-release
		_, err := f.Write(data)
		return err
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	errs := make(chan error, dirSlots+1)
	begin := func() { errs <- d.Create(ctx, prefix+"00000001/owner", []byte("me")) }
	for range dirSlots {
		go begin()
	}
	for range dirSlots {
		<-hanging
	}
	go begin() // has no slot
	cancel(errors.New("no time left"))
	for range dirSlots + 1 {
		err := <-errs
		must.ErrorContains(t, err, "no time left")
		must.False(t, permanent(err))
	}
	// What was given up comes late. Of those that wrote the same one has succeeded.
	close(release)
	for range dirSlots {
		d.slots <- struct{}{}
	}
	for range dirSlots {
		<-d.slots
	}
	must.Eq(t, []string{prefix + "00000001/owner"}, files(t, d.root))
}
