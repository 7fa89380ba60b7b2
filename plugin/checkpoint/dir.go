package checkpoint

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// scratch is the directory for files that are being written. No name begins
	// with a dot.
	scratch = ".writing"
	// scratchAge is when a file in it has been left behind for certain.
	scratchAge = 24 * time.Hour
	// dirSlots bounds the operations that wait for a file system that hangs.
	dirSlots = 8
	// dirTries bounds the times that a directory is made anew because somebody
	// else has just removed it as empty.
	dirTries = 10
)

// Dir is a Store in a directory, which has to be shared by the nodes if state is
// to follow a task from one to another. What Create has acknowledged has been
// synced, file and directories, and survives a crash of the machine as far as
// the file system and the disk keep what they have synced. Files are only for
// their owner. The file system needs hard links: by a link a file appears whole
// and never in place of another. If it hangs, methods return when their ctx ends,
// and the system calls are left to end by themselves; there are at most 8.
//
// gocloud.dev's own driver for directories is not used: it looks whether a file
// is there and then renames over it, and does not sync.
type Dir struct {
	root  string
	slots chan struct{}
	write func(*os.File, []byte) error // what writes a file
}

// OpenDir returns the store in a directory, which must be there: were it made, a
// file system that is not mounted would go unnoticed. For the same reason it
// should lie below the mount point and not be it.
func OpenDir(ctx context.Context, root string) (*Dir, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("open store: %q is not an absolute path", root)
	}
	d := &Dir{
		root: filepath.Clean(root), slots: make(chan struct{}, dirSlots),
		write: func(f *os.File, data []byte) error { _, err := f.Write(data); return err },
	}
	_, err := inDir(ctx, d, func() (struct{}, error) {
		if err := d.check(); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, d.sweep()
	})
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return d, nil
}

// check says whether the directory is there.
func (d *Dir) check() error {
	info, err := os.Stat(d.root)
	if err != nil {
		return fmt.Errorf("%w; make the directory once, below the mount point if it is shared, and mount it on each node", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", d.root)
	}
	return nil
}

// sweep removes what was being written when a machine crashed.
func (d *Dir) sweep() error {
	entries, err := os.ReadDir(filepath.Join(d.root, scratch))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && time.Since(info.ModTime()) > scratchAge {
			err = os.Remove(filepath.Join(d.root, scratch, e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// inDir runs fn, and leaves it alone if ctx ends first: a file system that hangs
// cannot be interrupted. What fn then does is not waited for, but it is bounded
// how many there are.
func inDir[T any](ctx context.Context, d *Dir, fn func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	select {
	case d.slots <- struct{}{}:
	case <-ctx.Done():
		return none, fmt.Errorf("%s does not answer, with %d operations waiting: %w", d.root, dirSlots, context.Cause(ctx))
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-d.slots }()
		value, err := fn()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, dirErr(d.root, r.err)
	case <-ctx.Done():
		return none, fmt.Errorf("%s does not answer: %w", d.root, context.Cause(ctx))
	}
}

// dirErr marks errors that another try does not change.
func dirErr(root string, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case syscall.ENOSPC, syscall.EDQUOT:
		return fmt.Errorf("%w: no space is left at %s: %w", ErrRefused, root, err)
	case syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ENOTDIR, syscall.ENAMETOOLONG, syscall.EFBIG, syscall.EMLINK:
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case syscall.ENOTSUP, syscall.ENOSYS:
		return fmt.Errorf("%w: the file system at %s cannot do what is needed, for example hard links: %w", ErrRefused, root, err)
	}
	return err
}

// path is where an object lies.
func (d *Dir) path(name string) (string, error) {
	if !filepath.IsLocal(name) || strings.HasPrefix(name, ".") || strings.Contains(name, "/.") || filepath.Clean(name) != strings.TrimSuffix(name, "/") {
		return "", fmt.Errorf("%w: %q is not a name", ErrRefused, name)
	}
	return filepath.Join(d.root, name), nil
}

// Create implements Store.
func (d *Dir) Create(ctx context.Context, name string, data []byte) error {
	path, err := d.path(name)
	if err != nil {
		return err
	}
	_, err = inDir(ctx, d, func() (struct{}, error) { return struct{}{}, d.create(path, data) })
	return err
}

func (d *Dir) create(path string, data []byte) (err error) {
	if err := d.check(); err != nil {
		return err
	}
	temp := filepath.Join(d.root, scratch, rand.Text())
	if err := os.MkdirAll(filepath.Dir(temp), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(temp)) }()
	if err := errors.Join(d.write(f, data), f.Sync(), f.Close()); err != nil {
		return err
	}
	parent := filepath.Dir(path)
	var exists bool
	for try := 1; ; try++ {
		err := os.MkdirAll(parent, 0o700)
		if err == nil {
			if err = os.Link(temp, path); err != nil {
				err = fmt.Errorf("hard link, which the file system must have: %w", err)
			}
		}
		if exists = errors.Is(err, fs.ErrExist); err == nil || exists {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || try == dirTries {
			return err
		}
	}
	// All directories: whoever has made one may not have synced it yet. Also for
	// a file that is there, which may be ours of a try that ended here.
	for dir := parent; ; dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil {
			return err
		}
		if dir == d.root {
			break
		}
	}
	if exists {
		return ErrExists
	}
	return nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Get implements Store.
func (d *Dir) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	path, err := d.path(name)
	if err != nil {
		return nil, err
	}
	return inDir(ctx, d, func() ([]byte, error) {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			if err := d.check(); err != nil {
				return nil, err
			}
			return nil, ErrNotFound
		}
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // it is read only
		data, err := io.ReadAll(io.LimitReader(f, limit+1))
		if err != nil {
			return nil, err
		}
		if int64(len(data)) > limit {
			return nil, tooLargeToRead(name, -1, limit)
		}
		return data, nil
	})
}

// List implements Store.
func (d *Dir) List(ctx context.Context, prefix string) ([]string, error) {
	path, err := d.path(prefix)
	if err != nil {
		return nil, err
	}
	return inDir(ctx, d, func() ([]string, error) {
		if err := d.check(); err != nil {
			return nil, err
		}
		var names []string
		err := filepath.WalkDir(path, func(file string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // not there, or removed since it was listed
			}
			if err != nil || e.IsDir() {
				return err
			}
			if len(names) == maxNames {
				return tooMany(prefix)
			}
			rel, err := filepath.Rel(d.root, file)
			names = append(names, filepath.ToSlash(rel))
			return err
		})
		if err != nil {
			return nil, err
		}
		return names, nil
	})
}

// Delete implements Store. Directories that are left empty go as well.
func (d *Dir) Delete(ctx context.Context, name string) error {
	path, err := d.path(name)
	if err != nil {
		return err
	}
	_, err = inDir(ctx, d, func() (struct{}, error) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return struct{}{}, err
		}
		for dir := filepath.Dir(path); dir != d.root; dir = filepath.Dir(dir) {
			if os.Remove(dir) != nil {
				break // it is in use
			}
		}
		return struct{}{}, nil
	})
	return err
}

// Close implements Store.
func (d *Dir) Close() error { return nil }
