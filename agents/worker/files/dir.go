package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dirPlace is a directory with outputs.
type dirPlace struct {
	root     string // with the published outputs
	attempts string // root/.wq/queue
}

func newDirPlace(root, queue string) (*dirPlace, error) {
	p := &dirPlace{root, filepath.Join(root, marker, queue)}
	return p, os.MkdirAll(p.attempts, dirMode)
}

// depthOf is the number of parts of a name.
func depthOf(name string) int { return strings.Count(name, "/") + 1 }

func (p *dirPlace) work() string { return p.attempts }

func (p *dirPlace) dir(k key) string { return filepath.Join(p.attempts, k.String()) }

func (p *dirPlace) url(k key, name string) string { return filepath.Join(p.dir(k), name) }

func (p *dirPlace) keep(_ context.Context, k key, name, from string) error {
	to := p.url(k, name)
	err := makeNew(p.dir(k))
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), dirMode)
	}
	if err == nil {
		err = os.Rename(from, to)
	}
	// Nobody looks before the ack, so all is synced at the end: file systems with a journal
	// then have one transaction to write and not two.
	if err == nil {
		err = syncTree(to)
	}
	for dir := filepath.Dir(to); err == nil && len(dir) >= len(p.attempts); dir = filepath.Dir(dir) {
		err = syncPath(dir)
	}
	if err != nil {
		return down(fmt.Errorf("keep the output: %w", err))
	}
	return nil
}

// nameOf is the name of a kept output; empty: there is none.
func (p *dirPlace) nameOf(k key) (string, error) {
	name := ""
	for range k.depth {
		entries, err := os.ReadDir(filepath.Join(p.dir(k), name))
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		name = filepath.Join(name, entries[0].Name())
	}
	return name, nil
}

func (p *dirPlace) publish(ctx context.Context, k key) error {
	name, err := p.nameOf(k)
	if err == nil && name != "" {
		err = p.move(ctx, p.url(k, name), name)
	}
	if err != nil {
		return down(fmt.Errorf("publish the output: %w", err))
	}
	return os.RemoveAll(p.dir(k))
}

// move gives an output its name. What was published there before is replaced.
func (p *dirPlace) move(ctx context.Context, from, name string) error {
	to := filepath.Join(p.root, name)
	info, err := os.Lstat(from)
	if err == nil && !info.IsDir() {
		err = rename(from, to)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // somebody else has done it
	case err == nil && !info.IsDir():
		return nil
	case err == nil || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EISDIR):
		return p.replace(ctx, from, name)
	}
	return err
}

// rename makes the directories that are missing. An error that is fs.ErrNotExist says that
// there is nothing under the old name.
func rename(from, to string) error {
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(to), dirMode); err == nil {
			err = os.Rename(from, to)
		}
	}
	return err
}

func (p *dirPlace) find(_ context.Context, k key) (finding, error) {
	name, err := p.nameOf(k)
	if err != nil || name == "" {
		return nothing, err
	}
	_, err = os.Lstat(filepath.Join(p.root, name))
	if errors.Is(err, fs.ErrNotExist) {
		return free, nil
	}
	return taken, err
}

func (p *dirPlace) remove(_ context.Context, k key) error {
	return os.RemoveAll(p.dir(k))
}

func (p *dirPlace) removeRun(k key) error { return os.RemoveAll(p.dir(k) + running) }

func (p *dirPlace) touchRun(k key) error {
	now := time.Now()
	err := os.Chtimes(p.dir(k)+running, now, now)
	if errors.Is(err, fs.ErrNotExist) { // it has ended meanwhile
		return nil
	}
	return err
}

func (p *dirPlace) list(ctx context.Context) ([]kept, error) {
	if err := p.completeAll(ctx); err != nil {
		return nil, down(fmt.Errorf("publish what others have left: %w", err))
	}
	entries, err := os.ReadDir(p.attempts)
	if err != nil {
		return nil, down(err)
	}
	var all []kept
	for _, e := range entries {
		name, run := strings.CutSuffix(e.Name(), running)
		k, ok := parseKey(name)
		info, err := e.Info()
		if ok && err == nil {
			all = append(all, kept{k, run, info.ModTime()})
		}
	}
	return all, nil
}

func (p *dirPlace) probe(context.Context) error { return probeDir(p.attempts) }
