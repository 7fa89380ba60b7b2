package files

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Rename replaces a file by a file, in one step and however often. Where a directory has
// to be replaced the two have to be exchanged, which is another thing in two respects. Done
// twice, by a worker that was killed and by the one that repairs what it left, it would
// bring back what was there. And what is there may be no output, but a directory with those
// of others. So there is a record of each directory that was published, what is to take its
// place is put beside the record first, and one worker does so at a time.

// record is about a name under which a directory was published.
type record struct {
	Name string `json:"name"`
	// Published is the inode of what is there, or was before Next.
	Published uint64 `json:"published,omitempty"`
	// Next is the inode of what takes its place.
	Next uint64 `json:"next,omitempty"`
}

// lockEvery is the time between two tries to get the lock.
const lockEvery = 20 * time.Millisecond

// records is the directory of the records, of all queues. No queue has such a name.
func (p *dirPlace) records() string { return filepath.Join(p.root, marker, ".directories") }

// recordOf is the files of a name: the record, and what takes the place of what is there.
func (p *dirPlace) recordOf(name string) (file, next string) {
	sum := sha256.Sum256([]byte(name))
	file = filepath.Join(p.records(), hex.EncodeToString(sum[:]))
	return file, file + ".next"
}

// replace gives an output its name, if it is a directory or one is there.
func (p *dirPlace) replace(ctx context.Context, from, name string) error {
	unlock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := p.complete(name); err != nil {
		return err
	}
	ino, err := inode(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody else has done it
	}
	if err != nil {
		return err
	}
	r, err := p.readRecord(name)
	if err != nil {
		return err
	}
	there, err := p.replaceable(name, r)
	if err != nil {
		return err
	}
	if err := p.writeRecord(record{name, there, ino}); err != nil {
		return err
	}
	_, next := p.recordOf(name)
	if err := os.Rename(from, next); err != nil {
		return err
	}
	return p.complete(name)
}

// replaceable returns the inode of what is under a name, zero if there is nothing, and an
// error if it is a directory that was not published as a whole.
func (p *dirPlace) replaceable(name string, r record) (uint64, error) {
	to := filepath.Join(p.root, name)
	info, err := os.Lstat(to)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	there := inodeOf(info)
	if !info.IsDir() || there == r.Published || there == r.Next {
		return there, nil
	}
	entries, err := os.ReadDir(to)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is a directory with other things in it and is not replaced; move them away, or put {id} into -name", to)
	}
	return there, err
}

// complete puts what is beside the record into its place, if there is anything.
func (p *dirPlace) complete(name string) error {
	_, next := p.recordOf(name)
	ino, err := inode(next)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r, err := p.readRecord(name)
	if err != nil {
		return err
	}
	if ino == r.Next {
		there, err := p.replaceable(name, r)
		if err != nil {
			return err
		}
		to := filepath.Join(p.root, name)
		if there == 0 {
			err = rename(next, to)
		} else {
			err = unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
		}
		if err != nil {
			return fmt.Errorf("put it in the place of %s: %w", to, err)
		}
	}
	// Now there is what was in the place before. It goes first: as long as it is there, the
	// record has to tell what it is.
	if err := os.RemoveAll(next); err != nil {
		return err
	}
	return p.writeRecord(record{Name: name, Published: r.Next})
}

// completeAll does what workers have begun and not done.
func (p *dirPlace) completeAll(ctx context.Context) error {
	left, err := filepath.Glob(filepath.Join(p.records(), "*.next"))
	if err != nil || len(left) == 0 {
		return err
	}
	unlock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	var errs []error
	for _, next := range left {
		var r record
		b, err := os.ReadFile(next[:len(next)-len(".next")])
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		if err == nil {
			err = p.complete(r.Name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// inode is the number of what is under a path.
func inode(path string) (uint64, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	return inodeOf(info), nil
}

func inodeOf(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

func (p *dirPlace) readRecord(name string) (r record, err error) {
	file, _ := p.recordOf(name)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		err = fmt.Errorf("read what was published as %s: %w", name, err)
	}
	return r, err
}

func (p *dirPlace) writeRecord(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	file, _ := p.recordOf(r.Name)
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return err
	}
	return errors.Join(syncPath(file+".new"), os.Rename(file+".new", file), syncPath(p.records()))
}

// lock keeps other workers from replacing directories. It ends with the process.
func (p *dirPlace) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(p.records(), dirMode); err != nil {
		return nil, err
	}
	f, err := os.Open(p.records())
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // it was only read
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", p.records(), err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-tick.C:
		}
	}
}
