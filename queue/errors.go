package queue

import "errors"

// What callers branch on.
var (
	// ErrNotLeader: this broker does not lead the shard, or not any more. What was
	// asked for may have been done; ask the one who leads.
	ErrNotLeader = errors.New("this broker does not lead the shard")
	// ErrSealed: the queue takes no more items.
	ErrSealed = errors.New("the queue is sealed and takes no more items")
	// ErrFull: the queue has as many unfinished items as it may have.
	ErrFull = errors.New("the queue is full")
	// ErrUnknownItem: there is no such item, or it is finished and forgotten.
	ErrUnknownItem = errors.New("no such item")
	// ErrUnknownQueue: there is no such queue.
	ErrUnknownQueue = errors.New("no such queue")
	// ErrBusy: the broker has too much to do; try again later.
	ErrBusy = errors.New("the broker is busy")
	// ErrTooLarge: what was given at once does not fit one transaction of Consul.
	ErrTooLarge = errors.New("too much at once")
)
