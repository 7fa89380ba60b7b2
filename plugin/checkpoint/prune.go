package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// keepOwners is how many of the newest epochs keep their owner. A claim made
	// from a list that is behind meets them, and so does not land below a
	// newer epoch.
	keepOwners = 16
	// halfAge is how long a half-written version of somebody else, or of an earlier
	// process, is left alone if no end has been seen. It is longer than any save takes: see saveWindow.
	// Both are measured as durations, so clocks may differ.
	halfAge = 2 * saveWindow
	// pruneTime bounds what a save or a claim spends on old objects.
	pruneTime = 3 * time.Second
	// maxReported bounds the deletions that failed that are told in one error.
	maxReported = 3
)

// rules say what may be deleted.
type rules struct {
	own     int // epoch that deletes; nothing of a later one is touched
	keep    int // versions
	saved   ref // known to be good and so never deleted; the zero ref: no version is
	damaged func(ref) bool
	halves  map[ref]bool   // half-written by the session itself, and given up
	old     func(ref) bool // whether nobody is still writing any other half-written version
}

// garbage lists the objects that may be deleted, in the order in which they must
// be. A version's manifest goes before its data, so that what exists is whole.
func (t *tree) garbage(r rules) []string {
	var drop []ref
	kept := 0
	for _, v := range t.versions() { // newest first
		if !t.turns[v.epoch].data[v.seq] {
			continue
		}
		switch {
		case v == r.saved:
			kept++
		case kept < r.keep:
			if !r.damaged(v) {
				kept++
			}
		case v.epoch <= r.own && r.saved != ref{}:
			drop = append(drop, v)
		}
	}
	for epoch, turn := range t.turns {
		for _, seq := range turn.halves() {
			v := ref{epoch, seq}
			if epoch == r.own && r.halves[v] || epoch <= r.own && r.old(v) {
				drop = append(drop, v)
			}
		}
	}
	slices.SortFunc(drop, ref.compare)

	var names []string
	left := map[int]int{} // versions in each epoch, half-written ones as well
	for epoch, turn := range t.turns {
		left[epoch] = len(turn.data)
		for seq := range turn.manifest {
			if !turn.data[seq] {
				left[epoch]++
			}
		}
	}
	for _, v := range drop {
		turn := t.turns[v.epoch]
		if turn.manifest[v.seq] {
			names = append(names, v.manifestName(t.prefix))
		}
		if turn.data[v.seq] {
			names = append(names, v.dataName(t.prefix))
		}
		left[v.epoch]--
	}
	closed, newest := t.closed(), t.newest()
	for _, epoch := range t.epochs() {
		// The epoch that closes older versions is needed as long as they are there,
		// and it is not worth knowing whether they are.
		if epoch >= r.own || epoch > newest-keepOwners || epoch == closed || left[epoch] > 0 {
			continue
		}
		turn := t.turns[epoch]
		// The owner first: one that is left without its end would be waited for.
		for _, o := range []struct {
			there bool
			base  string
		}{{turn.owner, ownerName}, {turn.end, endName}, {turn.final, finalName}} {
			if o.there {
				names = append(names, epochObject(t.prefix, epoch, o.base))
			}
		}
	}
	return names
}

// after looks at the chain after a save: is there a later owner, and what is too
// old? The version is stored, so that nothing here is tried twice.
func (s *Session) after(ctx context.Context, saved *Saved) {
	ctx, cancel := context.WithTimeout(ctx, pruneTime)
	defer cancel()
	v := saved.ref()
	names, err := s.chain.store.List(ctx, s.chain.prefix)
	if err != nil {
		saved.Unseen, saved.Prune = true, fmt.Errorf("list checkpoints below %s: %w", s.chain.prefix, err)
		return
	}
	t := newTree(s.chain.prefix, names)
	// The list may be behind, or have been taken while an object was on its way.
	turn := t.turn(s.epoch)
	turn.data[v.seq], turn.manifest[v.seq] = true, true
	if newest := t.newest(); newest > s.epoch {
		if saved.Superseded, err = s.chain.tenure(ctx, t, newest); err != nil {
			// That there is one is known, only not who it is.
			saved.Superseded = &Tenure{Epoch: newest, Err: err}
		}
	}
	saved.Prune = s.prune(ctx, t, v)
}

// prune deletes what is too old. After a save the versions beyond those to be
// kept are too, but not after a claim: which one is good is not known then.
func (s *Session) prune(ctx context.Context, t *tree, saved ref) error {
	ctx, cancel := context.WithTimeout(ctx, pruneTime)
	defer cancel()
	c := s.chain
	c.mu.Lock()
	names := t.garbage(rules{
		own: s.epoch, keep: c.opts.Keep, saved: saved,
		damaged: func(v ref) bool { return c.damaged[v] },
		halves:  s.halves,
		old:     c.seen(t),
	})
	c.mu.Unlock()
	var errs []error
	failed := 0
	for i, name := range names {
		if ctx.Err() != nil {
			errs = append(errs, fmt.Errorf("%d old objects are left: %w", len(names)-i, context.Cause(ctx)))
			break
		}
		err := c.store.Delete(ctx, name)
		v, isVersion := parseVersion(c.prefix, name)
		isVersion = isVersion && v.epoch == s.epoch
		switch {
		case err == nil && isVersion && name == v.dataName(c.prefix):
			delete(s.halves, v)
		case err != nil && isVersion:
			s.halves[v] = true // its manifest may be gone, and its data not
		}
		if err == nil {
			continue
		}
		if failed++; failed <= maxReported {
			errs = append(errs, fmt.Errorf("delete %s: %w", name, err))
		}
	}
	if failed > maxReported {
		errs = append(errs, fmt.Errorf("and %d more", failed-maxReported))
	}
	return errors.Join(errs...)
}

// half is what is known of a half-written version.
type half struct {
	first time.Time // when it was first seen
	ended bool      // its owner had finished by then
}

// seen takes note of half-written versions, and returns a function that says
// whether one will never be whole: it still is not, a long time after it was
// first seen, or after its owner was seen to have finished. The list in which
// that end appears first does not count: it may have missed what was written
// just before. c.mu is held.
func (c *Chain) seen(t *tree) func(ref) bool {
	now := c.opts.Now()
	before := c.halves
	c.halves = map[ref]half{}
	for epoch, turn := range t.turns {
		for _, seq := range turn.halves() {
			v := ref{epoch, seq}
			c.halves[v] = half{first: now, ended: turn.ended()}
			if known, ok := before[v]; ok {
				c.halves[v] = half{first: known.first, ended: turn.ended()}
			}
		}
	}
	return func(v ref) bool {
		known, ok := before[v]
		return ok && (known.ended || now.Sub(known.first) >= halfAge)
	}
}
