package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// scratch is the work directory of this worker, in that of all. It is locked as long as
// the worker lives, and removed when it ends; what dead ones have left the next one
// removes.
type scratch struct {
	dir  string
	lock *os.File
}

const (
	scratchPrefix = "wq-"
	lockName      = "lock"
	// scratchTries is how often a directory is made in vain.
	scratchTries = 10
)

func newScratch(parent string) (*scratch, error) {
	if err := os.MkdirAll(parent, 0o750); err != nil {
		return nil, err
	}
	if err := removeDead(parent); err != nil {
		return nil, err
	}
	for range scratchTries {
		s, err := tryScratch(parent)
		if s != nil || err != nil {
			return s, err
		}
	}
	return nil, fmt.Errorf("other workers remove what is made in %s", parent)
}

// tryScratch returns nil if another worker, which starts at the same time, has taken the
// directory for that of a dead one before it was locked.
func tryScratch(parent string) (*scratch, error) {
	dir, err := os.MkdirTemp(parent, scratchPrefix)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, lockName)
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	err = flock(lock)
	mine, err2 := lock.Stat()
	there, err3 := os.Stat(path)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err3, fs.ErrNotExist):
		return nil, lock.Close() // whoever has the lock removes it
	case errors.Join(err, err2, err3) != nil:
		return nil, errors.Join(err, err2, err3, lock.Close(), os.RemoveAll(dir))
	case !os.SameFile(mine, there):
		return nil, lock.Close()
	}
	return &scratch{dir, lock}, nil
}

func flock(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// removeDead removes the directories of workers that are dead. One that has no lock file
// yet is being made.
func removeDead(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), scratchPrefix) {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
		if err != nil {
			continue // of another user, or no longer there
		}
		if flock(lock) == nil {
			err = os.RemoveAll(dir)
		}
		if err := errors.Join(err, lock.Close()); err != nil {
			return fmt.Errorf("remove what a dead worker has left: %w", err)
		}
	}
	return nil
}

func (s *scratch) probe() error { return probeDir(s.dir) }

// probeDir says whether a directory can be written to.
func probeDir(dir string) error {
	f, err := os.CreateTemp(dir, "probe-*")
	if err != nil {
		return err
	}
	const enough = 64 << 10
	_, err = f.Write(make([]byte, enough))
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

func (s *scratch) close() error { return errors.Join(os.RemoveAll(s.dir), s.lock.Close()) }
