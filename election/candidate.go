package election

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Candidate is this process's part in one election, from Join until it leaves. It leads
// any number of terms, one after the other.
type Candidate struct {
	e    *Elector
	name string
	p    *campaign // owned by the loop
	opts Options

	mu      sync.Mutex
	lead    *Leadership   // the last one
	changed chan struct{} // closed and replaced at each gain
	err     error         // why it is over
	done    chan struct{}

	// tells are the calls of OnGain and OnLoss, in their order. At most a gain and a
	// loss wait: the next gain comes after the loss was delivered.
	tells []func()
}

// Join makes this process a candidate. It returns at once; Lead waits for the
// leadership. The error is a *FieldError, ErrJoined or ErrClosed.
func (e *Elector) Join(name string, opts Options) (*Candidate, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	opts, err := opts.withDefaults(e.cfg)
	if err != nil {
		return nil, err
	}
	c := &Candidate{e: e, name: name, opts: opts, changed: make(chan struct{}), done: make(chan struct{})}
	err = ErrClosed
	e.call(e.ctx, func(k *core, now time.Duration) []action {
		if e.closing {
			return nil
		}
		if len(k.campaigns) == MaxElections {
			err = fmt.Errorf("election %q: this process is a candidate in %d elections already, the most it can be", name, MaxElections)
			return nil
		}
		if k.regBytes+entryBytes(name) > maxRegistration {
			err = fmt.Errorf("election %q: the names of this process's elections do not fit into one key of consul, which takes %d KiB", name, maxRegistration>>10)
			return nil
		}
		if c.p, err = k.join(now, name, opts, e.cfg.timing(opts.Mode)); err == nil {
			e.members[name] = c
			e.keep(opts.Mode)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Candidate returns the candidate of an election that this process has joined.
func (e *Elector) Candidate(name string) (c *Candidate, ok bool) {
	e.call(e.ctx, func(*core, time.Duration) []action {
		c, ok = e.members[name]
		return nil
	})
	return c, ok
}

// Name returns the election's name.
func (c *Candidate) Name() string { return c.name }

// Options returns how it takes part, with the defaults filled in.
func (c *Candidate) Options() Options { return c.opts }

// Done is closed when this process is no candidate any more: it left, its lease
// expired, or the Elector was closed.
func (c *Candidate) Done() <-chan struct{} { return c.done }

// Err returns why, and nil before.
func (c *Candidate) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Leadership returns the present term, or nil when this process does not lead or must
// not trust that it does.
func (c *Candidate) Leadership() *Leadership {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lead == nil || !c.lead.Valid() {
		return nil
	}
	return c.lead
}

// Lead waits until this process leads, and returns the term. The error is that of the
// context, or the reason for which it is no candidate any more.
func (c *Candidate) Lead(ctx context.Context) (*Leadership, error) {
	for {
		c.mu.Lock()
		lead, changed, err := c.lead, c.changed, c.err
		c.mu.Unlock()
		if err != nil {
			return nil, fmt.Errorf("election %q: %w", c.name, err)
		}
		if lead != nil && lead.Valid() {
			return lead, nil
		}
		select {
		case <-changed:
		case <-c.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("election %q: not leading yet: %w", c.name, context.Cause(ctx))
		}
	}
}

// Run calls work whenever this process leads, with a context that is cancelled at the
// end of the term, until work returns before that, the context ends, or the candidate
// has left; and returns why. After a resignation the lock is released only when work
// has returned. When the context ends Run resigns, and stays a candidate.
func (c *Candidate) Run(ctx context.Context, work func(ctx context.Context, l *Leadership) error) error {
	for {
		lead, err := c.Lead(ctx)
		if err != nil {
			return err
		}
		letGo, ok := lead.hold()
		if !ok {
			continue
		}
		err = func() error {
			defer letGo()
			term, cancel := context.WithCancelCause(lead.Context())
			defer cancel(nil)
			stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
			defer stop()
			return work(term, lead)
		}()
		if lead.Err() != nil {
			if c.Err() != nil {
				return fmt.Errorf("election %q: %w", c.name, c.Err())
			}
			continue
		}
		// Still leading, and nobody works.
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), txnTimeout)
		rerr := c.Resign(release)
		cancel()
		if errors.Is(rerr, ErrNotLeader) {
			rerr = nil
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return errors.Join(err, rerr)
	}
}

// Renew extends the application's lease. The error is ErrNotLeader when this process is
// a candidate but not the leader, which extends the lease all the same, or the reason
// for which it is no candidate any more.
func (c *Candidate) Renew() error {
	err := c.gone()
	c.e.call(c.e.ctx, func(k *core, now time.Duration) []action {
		if k.byName[c.name] == c.p {
			err = k.renew(now, c.p)
		}
		return nil
	})
	return err
}

// gone is the error of a candidate that is none any more.
func (c *Candidate) gone() error {
	if err := c.Err(); err != nil {
		return fmt.Errorf("election %q: %w", c.name, err)
	}
	return fmt.Errorf("election %q: %w", c.name, ErrClosed)
}

// Resign ends the term, and lets others lead first. This process stays a candidate. It
// returns when the lock was released, or when the context ends: the term has ended then
// all the same, and the release is tried on. The error is ErrNotLeader, or the
// context's.
func (c *Candidate) Resign(ctx context.Context) error { return c.resign(ctx, ErrResigned, "") }

// HandOver is Resign in favour of another live candidate, which takes the lock before
// anybody else may. The error can be ErrUnknownCandidate besides.
func (c *Candidate) HandOver(ctx context.Context, to string) error {
	if err := CheckID(to); err != nil {
		return err
	}
	return c.resign(ctx, ErrHandedOver, to)
}

func (c *Candidate) resign(ctx context.Context, reason error, to string) error {
	result := make(chan error, 1)
	// Whatever the context says: it bounds the wait below, and the loop waits for nobody.
	posted := c.e.call(c.e.ctx, func(k *core, _ time.Duration) []action {
		if k.byName[c.name] != c.p {
			result <- c.gone()
			return nil
		}
		if to != "" && c.p.phase == leading {
			if to == k.self.ID || !k.alive(to, c.name) {
				result <- fmt.Errorf("election %q: hand over to %q: %w", c.name, to, ErrUnknownCandidate)
				return nil
			}
		}
		return k.resign(c.p, reason, to, func(err error) { result <- err })
	})
	if !posted {
		return c.gone()
	}
	select {
	case err := <-result:
		return err
	case <-c.done: // after the release
		select {
		case err := <-result: // it was none any more
			return err
		default:
			return nil
		}
	case <-ctx.Done():
		return fmt.Errorf("election %q: the lock is not released yet: %w", c.name, context.Cause(ctx))
	}
}

// Leave ends the candidature, after a resignation if this process leads. It returns
// when the lock was released, or when the context ends: the rest is done all the same.
func (c *Candidate) Leave(ctx context.Context) error {
	c.e.call(c.e.ctx, func(k *core, _ time.Duration) []action {
		if k.byName[c.name] != c.p {
			return nil
		}
		return k.leave(c.p, ErrLeft)
	})
	select {
	case <-c.done:
		return nil
	case <-c.e.ctx.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("election %q: has not left yet: %w", c.name, context.Cause(ctx))
	}
}

// gained begins a term. It is called by the loop, and does not wait.
func (c *Candidate) gained(l *Leadership) {
	c.mu.Lock()
	c.lead = l
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	if c.opts.OnGain != nil {
		c.tell(func() { c.opts.OnGain(l) })
	}
}

// lost ends a term: OnLoss is called, and when everybody has stopped who works in this
// term, the core hears of it. It is called by the loop, and does not wait.
func (c *Candidate) lost(l *Leadership, reason error) {
	idle := l.idle()
	if c.opts.OnLoss == nil && c.opts.OnGain == nil {
		select {
		case <-idle:
			c.e.core.lossDelivered(c.p)
			return
		default:
		}
	}
	c.tell(func() {
		if c.opts.OnLoss != nil {
			c.opts.OnLoss(l, reason)
		}
		select {
		case <-idle:
		case <-c.e.ctx.Done(): // Close has run out of time
		}
		c.e.post(c.e.ctx, func(k *core, _ time.Duration) []action { k.lossDelivered(c.p); return nil })
	})
}

// tell calls back in order, on a goroutine that is there only as long as it is needed.
func (c *Candidate) tell(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tells = append(c.tells, f)
	if len(c.tells) > 1 {
		return // somebody is at it
	}
	c.e.wg.Go(func() {
		for {
			c.mu.Lock()
			f := c.tells[0]
			c.mu.Unlock()
			f()
			c.mu.Lock()
			c.tells = c.tells[1:]
			empty := len(c.tells) == 0
			c.mu.Unlock()
			if empty {
				return
			}
		}
	})
}

// over ends the candidate.
func (c *Candidate) over(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	close(c.done)
}
