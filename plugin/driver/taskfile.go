package driver

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
)

// writeFile puts a file where the task finds it. The directory is the task's,
// so nothing outside the task's directory may be reached through it, whatever
// links lie there; os.Root sees to that.
func (t *task) writeFile(name string, data []byte) (err error) {
	root, err := os.OpenRoot(t.cfg.TaskDir().Dir)
	if err != nil {
		return fmt.Errorf("write %s file: %w", name, err)
	}
	defer func() { _ = root.Close() }() // only a directory handle
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s file: %w", name, err)
		}
	}()
	if err := makeEventDir(root); err != nil {
		return err
	}
	tmp, final := path.Join(eventDir, "."+name), path.Join(eventDir, name)
	if err := root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return root.Rename(tmp, final)
}

// makeEventDir makes the directory of these files. Like the one above it, which
// Nomad makes, everybody may write to it who reaches it: a save by command is
// written by the task's user.
func makeEventDir(root *os.Root) error {
	if err := root.MkdirAll(eventDir, 0o755); err != nil {
		return err
	}
	return root.Chmod(eventDir, 0o777)
}

// readFile reads what the task has put there.
func (t *task) readFile(name string, limit int64) ([]byte, error) {
	root, err := os.OpenRoot(t.cfg.TaskDir().Dir)
	if err != nil {
		return nil, fmt.Errorf("read %s file: %w", name, err)
	}
	defer func() { _ = root.Close() }() // only a directory handle
	// Not blocking: it may be a pipe that nobody writes to.
	f, err := root.OpenFile(path.Join(eventDir, name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read %s file: %w", name, err)
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read %s file: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s file: it is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s file: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s file: %w: more than %d bytes; save less, or raise lifecycle.checkpoint.max_size", name, hook.ErrTooLarge, limit)
	}
	return data, nil
}

func (t *task) removeFile(name string) error {
	root, err := os.OpenRoot(t.cfg.TaskDir().Dir)
	if err != nil {
		return fmt.Errorf("remove %s file: %w", name, err)
	}
	defer func() { _ = root.Close() }() // only a directory handle
	if err := root.Remove(path.Join(eventDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s file: %w", name, err)
	}
	return nil
}
