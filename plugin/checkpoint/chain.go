package checkpoint

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	defaultKeep    = 3
	defaultMaxSize = 256 << 10 // bytes
)

// Options are the settings of a chain. The zero value is valid.
type Options struct {
	// Keep is how many versions are kept, over all epochs. Default 3.
	Keep int
	// MaxSize bounds a state, in bytes, as it is saved and as it is restored.
	// Default 256 KiB. A store may have a lower limit of its own.
	MaxSize int64
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Chain is the checkpoints of one identity, oldest to newest. Its methods may
// be called from several goroutines at once. They go on trying while a store
// fails, until ctx ends, except where it refuses for good.
type Chain struct {
	store  Store
	prefix string
	opts   Options
	pause  func(ctx context.Context, d time.Duration) error

	mu      sync.Mutex   // guards the fields below
	damaged map[ref]bool // found so by Latest
	halves  map[ref]half // half-written versions
}

// Open returns the chain of an identity. It does not speak to the store. The
// error names the part of the identity or the option that is wrong.
func Open(store Store, id Identity, opts Options) (*Chain, error) {
	prefix, err := id.prefix()
	if err != nil {
		return nil, err
	}
	if opts.Keep < 0 || opts.MaxSize < 0 {
		return nil, fmt.Errorf("keep is %d and max_size is %d; neither may be negative", opts.Keep, opts.MaxSize)
	}
	if opts.Keep == 0 {
		opts.Keep = defaultKeep
	}
	if opts.MaxSize == 0 {
		opts.MaxSize = defaultMaxSize
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Chain{store: store, prefix: prefix, opts: opts, pause: sleep, damaged: map[ref]bool{}, halves: map[ref]half{}}, nil
}

// Prefix is where the chain lies in its store, for messages to the operator.
func (c *Chain) Prefix() string { return c.prefix }

// list reads what there is, again and again until it has an answer.
func (c *Chain) list(ctx context.Context) (*tree, error) {
	var names []string
	err := c.retry(ctx, func() (err error) {
		names, err = c.store.List(ctx, c.prefix)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list checkpoints below %s: %w", c.prefix, err)
	}
	return newTree(c.prefix, names), nil
}

// get reads an object, likewise.
func (c *Chain) get(ctx context.Context, name string, limit int64) (data []byte, err error) {
	err = c.retry(ctx, func() (err error) {
		data, err = c.store.Get(ctx, name, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// errTaken says that an object of a name has been written by somebody else.
var errTaken = errors.New("has been written by somebody else")

// create writes an object. After errTaken what is there under that name was there
// before, or is somebody else's; after any other error nothing is certain.
func (c *Chain) create(ctx context.Context, name string, data []byte) error {
	tried := false
	err := c.retry(ctx, func() error {
		err := c.store.Create(ctx, name, data)
		if !errors.Is(err, ErrExists) {
			tried = true
			return err
		}
		if !tried {
			return errTaken // even if it is the same: nobody knows since when
		}
		// It may be ours, of a try whose answer was lost.
		there, err := c.store.Get(ctx, name, int64(len(data)))
		var tooLarge *TooLargeError
		switch {
		case errors.As(err, &tooLarge), errors.Is(err, ErrNotFound): // and what is deleted is not ours either
			return errTaken
		case err != nil:
			return fmt.Errorf("read back: %w", err)
		case string(there) != string(data):
			return errTaken
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// DamagedError says that something in the store is not what was written.
type DamagedError struct {
	Name string // of the object
	Err  error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("checkpoint %s is damaged: %v", e.Name, e.Err)
}
func (e *DamagedError) Unwrap() error { return e.Err }

// Tenure is one owner's time with the chain.
type Tenure struct {
	Epoch int
	Owner Owner // zero if it could not be read, or has been deleted as old
	End   *End  // nil: it has not finished, as far as is known
	Err   error // a *DamagedError, if something of it could not be read
}

// tenure reads what there is of an epoch. The error is one of the store.
func (c *Chain) tenure(ctx context.Context, t *tree, epoch int) (*Tenure, error) {
	turn := t.turns[epoch]
	if turn == nil {
		return nil, nil
	}
	tenure := &Tenure{Epoch: epoch}
	read := func(base string, into func([]byte) error) error {
		name := epochObject(c.prefix, epoch, base)
		data, err := c.get(ctx, name, maxObject)
		var tooLarge *TooLargeError
		switch {
		case errors.Is(err, ErrNotFound):
			return nil // deleted since the list
		case err != nil && !errors.As(err, &tooLarge):
			return err
		case err == nil:
			err = into(data)
		}
		if err != nil {
			tenure.Err = &DamagedError{name, err}
		}
		return nil
	}
	if turn.owner {
		err := read(ownerName, func(data []byte) (err error) { tenure.Owner, err = decodeOwner(data); return err })
		if err != nil {
			return nil, err
		}
	}
	if turn.ended() {
		base := endName
		if turn.final {
			base = finalName
		}
		// It has ended even if it cannot be read how.
		tenure.End = &End{Final: turn.final}
		err := read(base, func(data []byte) error {
			end, err := decodeEnd(data)
			if err == nil {
				end.Final = turn.final // the name is what counts
				tenure.End = &end
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return tenure, nil
}

// Previous returns the newest owner's tenure, or nil if the chain has had none.
func (c *Chain) Previous(ctx context.Context) (*Tenure, error) {
	t, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	return c.tenure(ctx, t, t.newest())
}

// AwaitError says that owners that another allocation has to follow have not
// finished in time.
type AwaitError struct {
	Tenures []Tenure // of those, newest first
	Err     error    // why the wait has ended
}

func (e *AwaitError) Error() string {
	first := e.Tenures[0]
	return fmt.Sprintf("allocation %s on node %s has not finished with its checkpoints (epoch %d): %v", first.Owner.Alloc, first.Owner.Node, first.Epoch, e.Err)
}
func (e *AwaitError) Unwrap() error { return e.Err }

// AwaitEnd waits until every owner of an allocation other than alloc has
// finished, or gone says that there is nothing to be waited for: that
// allocation is over, or does not stop. It looks every interval. gone is asked
// about each such owner each time, and must return soon after its ctx ends.
//
// The error is an *AwaitError if ctx ends first; a *DamagedError, after all
// others have finished, if an owner could not be read and so not be waited for;
// or one of the store. After any of them the caller may still claim.
func (c *Chain) AwaitEnd(ctx context.Context, alloc string, interval time.Duration, gone func(context.Context, Owner) bool) error {
	over := map[int]bool{}     // epochs that need not be looked at again
	known := map[int]*Tenure{} // owners do not change
	var damaged []error
	for {
		t, err := c.list(ctx)
		if err != nil {
			return err
		}
		var waiting []Tenure
		epochs := t.epochs()
		for i := range epochs {
			epoch := epochs[len(epochs)-1-i]
			if over[epoch] || !t.turns[epoch].owner || t.turns[epoch].ended() {
				continue
			}
			if known[epoch] == nil {
				if known[epoch], err = c.tenure(ctx, t, epoch); err != nil {
					return err
				}
				if err := known[epoch].Err; err != nil {
					damaged = append(damaged, err)
				}
			}
			owner := known[epoch].Owner
			if owner.Alloc == "" || owner.Alloc == alloc || gone(ctx, owner) {
				over[epoch] = true
				continue
			}
			waiting = append(waiting, *known[epoch])
		}
		if len(waiting) == 0 {
			return errors.Join(damaged...)
		}
		if err := c.pause(ctx, jitter(max(interval, firstPause))); err != nil {
			return &AwaitError{waiting, err}
		}
	}
}

// Found is what a claim has found.
type Found struct {
	// Previous is the owner before, nil if there was none.
	Previous *Tenure
	// Prune says which old objects could not be deleted. They are another time.
	Prune error
}

// Claim takes the next epoch for a start of the task. Alloc and Node of who are
// given by the caller. Two claims never get the same epoch. After an error
// there may be a claim that nobody uses; it does no harm.
func (c *Chain) Claim(ctx context.Context, who Owner) (*Session, Found, error) {
	if err := who.check(); err != nil {
		return nil, Found{}, err
	}
	who.Claimed, who.ID = c.opts.Now().UTC(), rand.Text()
	data, err := encode(who)
	if err != nil {
		return nil, Found{}, err
	}
	for epoch := 0; ; {
		t, err := c.list(ctx)
		if err != nil {
			return nil, Found{}, err
		}
		// Upwards even if the list is behind.
		if epoch = max(epoch, t.newest()) + 1; epoch > maxNumber {
			return nil, Found{}, fmt.Errorf("%w: all epochs of %s are used up; delete what is below it", ErrRefused, c.prefix)
		}
		previous, err := c.tenure(ctx, t, t.newest())
		if err != nil {
			return nil, Found{}, err
		}
		err = c.create(ctx, epochObject(c.prefix, epoch, ownerName), data)
		if errors.Is(err, errTaken) { // by another start, at the same time
			if ended := c.pause(ctx, jitter(firstPause)); ended != nil {
				return nil, Found{}, fmt.Errorf("%w; the last error was: %w", ended, err)
			}
			continue
		}
		if err != nil {
			return nil, Found{}, err
		}
		s := newSession(c, epoch, who)
		s.attached = true
		t.turn(epoch).owner = true
		return s, Found{Previous: previous, Prune: s.prune(ctx, t, ref{})}, nil
	}
}

func (o Owner) check() error {
	switch {
	case o.Alloc == "" || len(o.Alloc) > maxText:
		return fmt.Errorf("owner: alloc has %d bytes; give an ID of 1 to %d", len(o.Alloc), maxText)
	case len(o.Node) > maxText:
		return fmt.Errorf("owner: node has %d bytes; give an ID of at most %d", len(o.Node), maxText)
	}
	return nil
}
