package election

import "errors"

// Errors that a caller may want to tell apart.
var (
	// ErrJoined: Join was called twice for an election.
	ErrJoined = errors.New("already a candidate in this election")
	// ErrUnknown: there is no such election under the prefix.
	ErrUnknown = errors.New("no such election")
	// ErrNotLeader: what was asked for can be done by the leader only.
	ErrNotLeader = errors.New("not the leader")
	// ErrUnknownCandidate: the candidate to hand over to does not take part.
	ErrUnknownCandidate = errors.New("no such live candidate in this election")
	// ErrClosed: the Elector has been closed.
	ErrClosed = errors.New("elector is closed")
	// ErrConflict: a fenced transaction was refused because of one of its own
	// operations.
	ErrConflict = errors.New("an operation was refused")
)

// Why a term of leadership ended: Leadership.Err is one of these, or wraps one.
var (
	// ErrResigned: Resign was called.
	ErrResigned = errors.New("resigned")
	// ErrHandedOver: HandOver was called.
	ErrHandedOver = errors.New("handed over")
	// ErrLeft: Leave was called.
	ErrLeft = errors.New("left the election")
	// ErrLeaseExpired: Renew was not called in time.
	ErrLeaseExpired = errors.New("the application did not renew its lease in time")
	// ErrTrustExpired: no consistent read confirmed the leadership for a whole trust
	// window, because Consul could not be reached, had no leader, or because this
	// process was not running.
	ErrTrustExpired = errors.New("consul did not confirm the leadership in time")
	// ErrLockLost: Consul says that the lock is gone: its session ended, or the key
	// was deleted, released or overwritten.
	ErrLockLost = errors.New("the lock was lost")
)
