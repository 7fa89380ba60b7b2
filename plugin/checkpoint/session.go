package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// saveWindow is the longest time from the beginning of a version's data to its
// manifest. A save that takes longer begins anew: by then a later owner may take
// the data for what a crash has left behind. See halfAge.
const saveWindow = 5 * time.Minute

var errWindow = errors.New("the version was not whole within its time")

// ErrEnded says that a session has been ended and saves nothing any more.
var ErrEnded = errors.New("the session has ended")

// Session is an owner's hold on its epoch. Its methods may be called from
// several goroutines at once, and run one after the other.
type Session struct {
	chain *Chain
	epoch int
	owner Owner
	turn  chan struct{} // holds one element while a method runs; it guards the fields below

	attached bool         // seq says what is in the store
	seq      int          // highest number that must not be used any more
	halves   map[ref]bool // versions of this epoch that this session may have left without an object
	ended    bool         // an end has been begun
}

func newSession(c *Chain, epoch int, who Owner) *Session {
	return &Session{chain: c, epoch: epoch, owner: who, turn: make(chan struct{}, 1), halves: map[ref]bool{}}
}

// Resume takes up a session after a restart of the process that claimed it. It
// does not speak to the store: the first save finds out where it stands. Alloc
// of who is needed.
func (c *Chain) Resume(epoch int, who Owner) (*Session, error) {
	if epoch < 1 || epoch > maxNumber {
		return nil, fmt.Errorf("resume epoch %d: there is no such epoch", epoch)
	}
	if err := who.check(); err != nil {
		return nil, fmt.Errorf("resume epoch %d: %w", epoch, err)
	}
	return newSession(c, epoch, who), nil
}

// Epoch is what Resume needs.
func (s *Session) Epoch() int { return s.epoch }

// lock waits for the other methods.
func (s *Session) lock(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another save: %w", context.Cause(ctx))
	}
}

func (s *Session) unlock() { <-s.turn }

// Saved is a version that has been stored.
type Saved struct {
	Version
	// Superseded is the tenure of a later owner, nil if there is none. The
	// version is kept, but whatever that owner saves counts as newer.
	Superseded *Tenure
	// Unseen says that the chain could not be looked at after the save, so that
	// there may be a later owner. Prune says why.
	Unseen bool
	// Prune says that the chain could not be looked at after the save, or which
	// old objects could not be deleted. They are another time.
	Prune error
}

// Save stores a new version of the state, and then deletes old ones. It tries
// until ctx ends. After an error the version is not acknowledged, though it may
// be there. The error is a *TooLargeError if the state is above Options.MaxSize
// or the store's own limit, ErrEnded after End, or contains ErrRefused if the
// store does not let it. Saves run one after the other.
func (s *Session) Save(ctx context.Context, state []byte, reason string) (Saved, error) {
	saved, err := s.save(ctx, state, reason)
	if err != nil {
		return Saved{}, fmt.Errorf("save checkpoint: %w", err)
	}
	return saved, nil
}

func (s *Session) save(ctx context.Context, state []byte, reason string) (Saved, error) {
	size, limit := int64(len(state)), s.chain.opts.MaxSize
	if size > limit {
		return Saved{}, &TooLargeError{size, limit, fmt.Sprintf("state of %s is above max_size of %s; save less or raise checkpoint.max_size", kib(size), kib(limit))}
	}
	stored, err := compress(state)
	if err != nil {
		return Saved{}, err
	}
	m := manifest{
		Version: format, Alloc: s.owner.Alloc, Reason: cut(reason), Bytes: size, StoredBytes: int64(len(stored)),
		SHA256: sha256Hex(state), Codec: codec,
	}
	if err := s.lock(ctx); err != nil {
		return Saved{}, err
	}
	defer s.unlock()
	for {
		if err := s.attach(ctx); err != nil {
			return Saved{}, err
		}
		if s.ended {
			return Saved{}, ErrEnded
		}
		v, err := s.put(ctx, stored, m)
		switch {
		case errors.Is(err, errTaken):
			s.attached = false // see what else there is
			if ended := s.chain.pause(ctx, jitter(firstPause)); ended != nil {
				return Saved{}, fmt.Errorf("%w; the last error was: %w", ended, err)
			}
			continue
		case errors.Is(err, errWindow) && ctx.Err() == nil:
			continue
		case err != nil:
			return Saved{}, err
		}
		saved := Saved{Version: v}
		s.after(ctx, &saved)
		return saved, nil
	}
}

// attach finds out which numbers have been used in the epoch.
func (s *Session) attach(ctx context.Context) error {
	if s.attached {
		return nil
	}
	t, err := s.chain.list(ctx)
	if err != nil {
		return err
	}
	turn := t.turn(s.epoch)
	s.seq = max(s.seq, turn.last())
	s.ended = s.ended || turn.ended()
	s.attached = true
	return nil
}

// put writes the next version: its data, and then its manifest. A number is not
// used for two states, so that what a try that was given up brings late is never
// mistaken for another. (Only a resumed session of which a later owner has
// deleted everything begins with 1 again.)
func (s *Session) put(ctx context.Context, stored []byte, m manifest) (Version, error) {
	v := ref{s.epoch, s.seq + 1}
	if v.seq > maxNumber {
		return Version{}, fmt.Errorf("%w: all numbers of epoch %d are used up; start the task again", ErrRefused, s.epoch)
	}
	c := s.chain
	m.Saved, m.Data = c.opts.Now().UTC(), v.dataBase()
	text, err := encode(m)
	if err != nil {
		return Version{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, saveWindow, errWindow)
	defer cancel()
	if err := c.create(ctx, v.dataName(c.prefix), stored); err != nil {
		if errors.Is(err, errTaken) {
			s.seq = v.seq
		}
		// Else the same name is tried again by the next save: what this one may
		// yet bring then refuses that, and is noticed.
		return Version{}, err
	}
	s.seq, s.halves[v] = v.seq, true
	if err := c.create(ctx, v.manifestName(c.prefix), text); err != nil {
		return Version{}, err
	}
	delete(s.halves, v)
	return Version{v.epoch, v.seq, m.Alloc, m.Saved, m.Reason, m.Bytes, m.StoredBytes, m.SHA256}, nil
}

// End says that this owner has finished: no save follows. It waits for a save
// that runs, and tries until ctx ends. final closes all versions up to now: the
// next start is a cold one. An end can be made final by ending again; a final
// end stays final.
func (s *Session) End(ctx context.Context, reason string, final bool) error {
	if err := s.lock(ctx); err != nil {
		return fmt.Errorf("end checkpoints: %w", err)
	}
	defer s.unlock()
	data, err := encode(End{Alloc: s.owner.Alloc, Ended: s.chain.opts.Now().UTC(), Reason: cut(reason), Final: final})
	if err != nil {
		return fmt.Errorf("end checkpoints: %w", err)
	}
	base := endName
	if final {
		base = finalName
	}
	// Whatever comes of it: a save after an end would be taken for half-written.
	s.ended = true
	err = s.chain.create(ctx, epochObject(s.chain.prefix, s.epoch, base), data)
	if err != nil && !errors.Is(err, errTaken) { // taken: ended before, with another time
		return fmt.Errorf("end checkpoints: %w", err)
	}
	return nil
}
