package election

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
)

// Leadership is one term of this process as leader of one election. It ends once and
// for all: whoever leads again has another Leadership with a higher token.
type Leadership struct {
	election string
	key      string // of the lock
	token    uint64
	term     uint64
	session  string
	grace    time.Duration
	clock    clock
	kv       fencedKV

	// until is the end of trust on the clock, in nanoseconds. It only rises.
	until atomic.Int64

	ctx context.Context // its cause is the reason of the loss
	end context.CancelCauseFunc

	mu    sync.Mutex
	holds int           // those who work in this term
	none  chan struct{} // closed when the last of them has stopped after the end
}

func newLeadership(c *campaign, key string, clk clock, kv fencedKV, until time.Duration) *Leadership {
	l := &Leadership{
		election: c.name, key: key, token: c.token, term: c.term, session: c.session, grace: c.opts.Grace, clock: clk, kv: kv,
	}
	l.ctx, l.end = context.WithCancelCause(context.Background())
	l.until.Store(int64(until))
	return l
}

// Election returns the election's name.
func (l *Leadership) Election() string { return l.election }

// Token returns the fencing token of the term: the Raft index of the write that took
// the lock. Send it with every write to something outside, which has to refuse tokens
// lower than the highest that it has seen.
func (l *Leadership) Token() uint64 { return l.token }

// Term returns the number of the term for people. See Status.Term.
func (l *Leadership) Term() uint64 { return l.term }

// Valid says whether this process may still trust that it leads. It looks at the clock
// and at nothing else, so it is cheap, and right even if the process was asleep. What
// is done after it returned can always be too late: that is what the token is for.
func (l *Leadership) Valid() bool { return l.ctx.Err() == nil && l.Trusted() > 0 }

// Trusted returns what is left of the trust window, less the grace. Zero: nothing.
func (l *Leadership) Trusted() time.Duration {
	if l.ctx.Err() != nil {
		return 0
	}
	return max(0, l.Until()-l.clock.Now())
}

// Until returns when the trust ends if it is not renewed, on the clock of Now.
func (l *Leadership) Until() time.Duration { return time.Duration(l.until.Load()) - l.grace }

// Done is closed when the term has ended.
func (l *Leadership) Done() <-chan struct{} { return l.ctx.Done() }

// Err returns why the term has ended, one of the reasons of this package, and nil
// before.
func (l *Leadership) Err() error {
	if l.ctx.Err() == nil {
		return nil
	}
	return context.Cause(l.ctx)
}

// Context returns a context that is cancelled at the end of the term, with the reason
// as its cause.
func (l *Leadership) Context() context.Context { return l.ctx }

// maxFencedOps is what Consul's 128 operations in a transaction leave.
const maxFencedOps = 126

// KV carries out operations on Consul's KV in one transaction, on the condition that
// this term still holds its lock: there is no moment between the check and the write.
// It returns the results of the operations in their order; a delete has none. The error
// is ErrNotLeader when the term is over, ErrConflict when an operation was refused; in
// both cases nothing was written. With any other error nobody knows. At most 126
// operations, and 384 KiB of values.
func (l *Leadership) KV(ctx context.Context, ops api.KVTxnOps) ([]*api.KVPair, error) {
	if len(ops) == 0 || len(ops) > maxFencedOps {
		return nil, fmt.Errorf("election %q: %d operations are not between 1 and %d", l.election, len(ops), maxFencedOps)
	}
	if !l.Valid() {
		return nil, fmt.Errorf("election %q, token %d: %w", l.election, l.token, ErrNotLeader)
	}
	return l.kv.fenced(ctx, l, ops)
}

// Fence returns the operations that make a transaction of the caller's own one that is
// carried out only while this term holds its lock; put them first. A transaction that
// writes nothing has to ask for consistency besides, or Consul answers it from memory
// that may be old. KV does all that, over the connections that the Elector lives on: a
// program that writes a lot should have a client for that.
func (l *Leadership) Fence() api.KVTxnOps {
	return api.KVTxnOps{
		{Verb: api.KVCheckSession, Key: l.key, Session: l.session},
		{Verb: api.KVCheckIndex, Key: l.key, Index: l.token},
	}
}

// hold keeps the lock from being released until the returned function is called. It
// returns false when the term is over.
func (l *Leadership) hold() (letGo func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.none != nil || !l.Valid() {
		return nil, false
	}
	l.holds++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.holds--
		if l.holds == 0 && l.none != nil {
			close(l.none)
		}
	}, true
}

// idle returns a channel that is closed when nobody works in this term any more. It is
// called once, at the end of the term.
func (l *Leadership) idle() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.none = make(chan struct{})
	if l.holds == 0 {
		close(l.none)
	}
	return l.none
}

// extend moves the end of trust, never back.
func (l *Leadership) extend(until time.Duration) {
	for {
		old := l.until.Load()
		if old >= int64(until) || l.until.CompareAndSwap(old, int64(until)) {
			return
		}
	}
}
