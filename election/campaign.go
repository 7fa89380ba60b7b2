package election

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// phase is where a campaign stands. There is at most one operation on the way for each
// campaign, and the phase says which.
//
//	           join
//	             │
//	             ▼   the key is free, and has been long enough
//	┌──► candidate ────────────────► locking
//	│      ▲   ▲   not locked           │
//	│      │   └────────────────────────┤ locked
//	│      │ the lock is gone           ▼
//	│      ├──────────── losing ◄──── leading      leading ends: resigned, trust
//	│      │               │                       expired, lock lost …
//	│      │ unlocked      │ OnLoss has returned,
//	│      │               ▼ and the lock is ours to release
//	│      └─────────── releasing
//	│ created
//	└──── creating   the key was missing
type phase int

const (
	candidate phase = iota
	creating        // writing a vacant key where there is none
	locking         // trying to take the lock
	leading         // holding the lock, and trusting so
	losing          // no leader any more; the application is being told
	releasing       // giving the lock back
)

func (p phase) String() string {
	return [...]string{"candidate", "creating", "locking", "leading", "losing", "releasing"}[p]
}

// Times between tries. A losing try costs a Raft entry, so candidates go one after the
// other.
const (
	rankSpread     = 40 * time.Millisecond  // between one rank and the next
	handOverGrace  = 500 * time.Millisecond // for which a key is left to whom it was handed
	resignedWait   = time.Second            // for which a candidate that resigned lets others go first
	retryRefused   = 50 * time.Millisecond  // after a refusal, which a new view usually explains
	retryUncertain = 250 * time.Millisecond // after no answer

	maxRetryRefused = 2 * time.Second
)

// campaign is this process's part in one election. It is plain state: the core changes
// it, and nothing in it touches the network or a clock.
type campaign struct {
	name string
	opts Options
	timing
	phase phase

	// What is known of the holders before us.
	seenToken  uint64        // highest index with which somebody else held the key
	seenWindow time.Duration // that holder's window
	freeModify uint64        // index at which the key was seen free
	freeSince  time.Duration // when it was first seen free at that index
	due        time.Duration // when to try the lock; computed for freeModify and dueViews
	dueViews   uint64        // number of the candidate sets that due was computed for

	notBefore time.Duration // no try earlier, after a failed one
	refusals  int           // of tries, one after the other, with nothing new to be seen
	refusal   string        // why, if that has happened several times
	deferred  time.Duration // after a resignation, no try earlier unless it is handed to us

	// tries are the nonces of our last tries, for as long as a key that holds one of
	// them and is locked by us cannot have been anybody else's in between.
	tries   []string
	started time.Duration // when the last try was sent

	// While leading and until the lock is released.
	session string
	token   uint64
	term    uint64
	lead    *Leadership

	release    bool          // losing: the lock is to be given back
	giveUp     time.Duration // losing: when the lock is given back without waiting for the application
	vacate     bool          // releasing: a lock that was never ours to trust
	sent       bool          // releasing: on its way
	releaseTo  string
	leaving    bool // be no candidate any more once the lock is gone
	leaseUntil time.Duration
	left       error // why the campaign is over

	// waiting get the result of a resignation.
	waiting []func(error)
}

// action is what the core wants done. Its outcome comes back as an event.
type action struct {
	kind     actionKind
	campaign *campaign
	key      string
	session  string
	attempt  string // of a lock
	check    uint64 // index that the key must have
	value    []byte
	lead     *Leadership
	err      error
	forget   bool // of a refresh: what was known is wrong
}

type actionKind int

const (
	doCreate   actionKind = iota // write the key if it is missing
	doLock                       // lock the key if it is still at check
	doUnlock                     // unlock the key
	doGained                     // tell the application
	doLost                       // tell the application, and come back with lossDelivered
	doDone                       // the campaign is over
	doRegister                   // lock our candidate's key
	doForget                     // delete the key of a dead candidate
	doRefresh                    // read the whole prefix again
	doVerify                     // look whether the session still exists
	doDestroy                    // end a session of ours that came back
)

func (k actionKind) String() string {
	return [...]string{"create", "lock", "unlock", "gained", "lost", "done", "register", "forget", "refresh", "verify", "destroy"}[k]
}

// refused is the error of a transaction that Consul did not carry out, and for certain.
type refused struct {
	what map[int]string // by operation, from 0
}

// first returns the first operation that was refused, and why.
func (e *refused) first() (op int, why string) {
	op = slices.Min(slices.Collect(maps.Keys(e.what)))
	return op, e.what[op]
}

func (e *refused) Error() string {
	_, why := e.first()
	return why
}

// certain says whether an error means that nothing was written.
func certain(err error) bool {
	var r *refused
	return errors.As(err, &r)
}

// lost begins the end of a term.
func (c *campaign) lose(reason error, release bool) action {
	c.phase = losing
	c.release, c.giveUp = release, never
	if errors.Is(reason, ErrTrustExpired) || errors.Is(reason, ErrLeaseExpired) {
		c.giveUp = 0 // nobody has asked the application to stop in its own time
	}
	c.lead.end(reason)
	if !release {
		c.tries = nil // the lock may be somebody else's by now
	}
	return action{kind: doLost, campaign: c, lead: c.lead, err: reason}
}

// why says what a view shows of a lock that should be ours.
func (c *campaign) why(k lockKey, ok bool) error {
	switch {
	case !ok:
		return fmt.Errorf("%w: its key was deleted", ErrLockLost)
	case k.session == "":
		return fmt.Errorf("%w: its session ended, or somebody released it", ErrLockLost)
	case k.session != c.session:
		return fmt.Errorf("%w: another session holds it", ErrLockLost)
	default:
		return fmt.Errorf("%w: its key was overwritten", ErrLockLost)
	}
}

// free notes that the key is free at this index, and returns since when.
func (c *campaign) free(k lockKey, now time.Duration) {
	if c.freeModify != k.modify {
		c.freeModify, c.freeSince, c.dueViews = k.modify, now, 0
		c.refusals, c.refusal = 0, ""
	}
}

// refuse notes that Consul has refused a try. A new view usually explains it, as when
// somebody else was faster. If none comes, as without the right to write the key, the
// next tries come ever later.
func (c *campaign) refuse(now time.Duration, err error) {
	wait := min(retryRefused<<min(c.refusals, 6), maxRetryRefused)
	if c.refusals++; c.refusals >= toldRefusals {
		c.refusal = err.Error()
	}
	c.notBefore = max(c.notBefore, now+wait)
}

// toldRefusals is after how many of them the refusal is told.
const toldRefusals = 3

// wait is how long the key has to have been free: not at all if its holder let go of
// it, and otherwise for as long as anybody may still trust to hold it.
func (c *campaign) wait(k lockKey, rewound uint64) time.Duration {
	// A key that was released by somebody before the last holder that we saw is an
	// old one come back, by a restored snapshot.
	if k.rec.State == stateReleased && k.rec.Token >= c.seenToken && k.modify > rewound {
		return 0
	}
	return max(c.window, k.rec.window(), c.seenWindow)
}

// held notes that somebody else holds the key.
func (c *campaign) held(k lockKey) {
	c.seenToken = max(c.seenToken, k.modify)
	if k.rec.State == stateHeld {
		c.seenWindow = k.rec.window()
	}
	c.freeModify, c.tries = 0, nil
	c.refusals, c.refusal = 0, ""
}
