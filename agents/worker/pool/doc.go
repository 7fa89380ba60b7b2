// Package pool claims items, has them done, and tells the broker.
//
//	claim ──► begin: inputs ──► do ──► finish: output whole ──► ack ──► publish
//	            │                │            │                  │
//	            └── failed ──────┴────────────┴─► retry/reject   └─ stale ─► discard
//
// It has a number of slots and never claims more items than it has free ones, so nothing
// waits in a worker while another one is idle. As long as an item is in a slot, until its
// ack has been answered, its lease is renewed: every third of it, in one request for all
// claims of a shard, with the progress of the items.
//
// Guaranteed:
//   - An item that is not acked is claimed again, by this worker or another, and its output
//     is not published; see package files for how outputs are.
//   - When the broker says that a lease is lost or an item cancelled, the work on it is
//     ended and nothing of it is kept.
//   - When the worker has to end, it claims nothing more. What is not done within the
//     drain timeout is ended and given back, without counting as a failure.
//
// Not guaranteed: that an item is not worked on twice at a time. A worker that cannot
// reach any broker goes on with what it has, since it may still be its: only the broker
// says that a lease is over.
package pool
