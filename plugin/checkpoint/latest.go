package checkpoint

import (
	"context"
	"errors"
)

// Checkpoint is a version with what was saved.
type Checkpoint struct {
	Version
	Data []byte
}

// Latest is what there is to restore.
type Latest struct {
	// Checkpoint is the newest version that is whole. nil: there is none, and the
	// task starts cold.
	Checkpoint *Checkpoint
	// Damaged are versions newer than that, newest first, that are not what was
	// saved, or larger than Options.MaxSize. The caller decides whether the older
	// one, or none, will do instead.
	Damaged []*DamagedError
	// Closed is the epoch whose final end has closed all versions up to it, 0 if
	// there is none.
	Closed int
}

// Latest reads the newest version. An error is one of the store: nothing is
// known then, least of all that there is nothing.
func (c *Chain) Latest(ctx context.Context) (Latest, error) {
	// A version can be deleted between being listed and being read, if a later
	// one has been saved. Then a new list shows that one.
	const tries = 3
	for try := 1; ; try++ {
		t, err := c.list(ctx)
		if err != nil {
			return Latest{}, err
		}
		latest, moved, err := c.newest(ctx, t)
		if err != nil {
			return Latest{}, err
		}
		if !moved || try == tries {
			c.mu.Lock()
			for _, d := range latest.Damaged {
				if v, ok := parseVersion(c.prefix, d.Name); ok {
					c.damaged[v] = true
				}
			}
			c.mu.Unlock()
			return latest, nil
		}
	}
}

// parseVersion reads the name of a manifest or of data.
func parseVersion(prefix, name string) (ref, bool) {
	for epoch, turn := range newTree(prefix, []string{name}).turns {
		if seq := turn.last(); seq > 0 {
			return ref{epoch, seq}, true
		}
	}
	return ref{}, false
}

// newest finds the newest whole version in a list. It reports whether something
// that was listed was not there any more.
func (c *Chain) newest(ctx context.Context, t *tree) (latest Latest, moved bool, err error) {
	latest.Closed = t.closed()
	for _, v := range t.versions() {
		if v.epoch <= latest.Closed {
			break
		}
		version, data, err := c.read(ctx, v)
		var damaged *DamagedError
		switch {
		case errors.As(err, &damaged):
			moved = moved || errors.Is(err, ErrNotFound)
			latest.Damaged = append(latest.Damaged, damaged)
		case errors.Is(err, ErrNotFound): // the manifest: the version does not exist any more
			moved = true
		case err != nil:
			return Latest{}, false, err
		default:
			latest.Checkpoint = &Checkpoint{version, data}
			return latest, moved, nil
		}
	}
	return latest, moved, nil
}

// read reads a version. The error is a *DamagedError, ErrNotFound if there is no
// manifest, or one of the store.
func (c *Chain) read(ctx context.Context, v ref) (Version, []byte, error) {
	name := v.manifestName(c.prefix)
	data, err := c.get(ctx, name, maxObject)
	var tooLarge *TooLargeError
	if errors.As(err, &tooLarge) {
		return Version{}, nil, &DamagedError{name, err}
	}
	if err != nil {
		return Version{}, nil, err
	}
	version, err := decodeManifest(data, v, c.opts.MaxSize)
	if err != nil {
		return Version{}, nil, &DamagedError{name, err}
	}
	name = v.dataName(c.prefix)
	stored, err := c.get(ctx, name, version.StoredBytes)
	if errors.As(err, &tooLarge) || errors.Is(err, ErrNotFound) {
		return Version{}, nil, &DamagedError{name, err}
	}
	if err != nil {
		return Version{}, nil, err
	}
	state, err := verify(version, stored)
	if err != nil {
		return Version{}, nil, &DamagedError{name, err}
	}
	return version, state, nil
}
