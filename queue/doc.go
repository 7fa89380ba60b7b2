// Package queue is a work queue that is kept in Consul's KV and nowhere else: the
// framework of section 5.2 of Burns and Oppenheimer, Design patterns for container-based
// distributed systems. [Broker] is the part that keeps the queue, and [Client] talks to
// brokers that are served over HTTP.
//
// # What is guaranteed
//
//   - What was accepted is stored: nothing is answered before Consul has committed it.
//     So every item that Enqueue has returned is handed out, until a worker says that it
//     is done, it is cancelled, or it has failed or been lost so often that it becomes a
//     dead letter, which is kept until somebody redrives it.
//   - An item is handed out again when its worker does not answer: at least once.
//   - One attempt at an item is accepted at most. Each has a number, which rises; the
//     output that goes with the accepted one is the output of the item, and what comes
//     of it in the next stage is stored in the same transaction as the acceptance: once.
//   - Items of one group are handed out one after the other, in the order in which they
//     were accepted.
//
// This holds when workers and brokers are killed or frozen at any moment, when
// connections break, when Consul loses its leader, and when two brokers both believe to
// lead: a write of the older one is refused by Consul.
//
// # What is not guaranteed
//
// That work is done once. A worker that was given up can still be at it, beside the
// one that got the item after it. Work whose effect is its output is safe, since one of
// the two is refused. Work with effects elsewhere has to be idempotent, or to check the
// number of the attempt there.
//
// That Enqueue without a key stores an item once: whoever gets no answer does not know
// whether it was stored. With a key it can be asked again.
//
// Order, outside of groups. Items of one priority are handed out in the order of their
// acceptance, but they can be overtaken when they fail, are lost, or lie in another shard.
//
// Anything, when somebody else writes below the keys of a queue's data. A broker has the
// shard in memory and overwrites what it does not know of; keys that cannot be read keep
// the shard from being led until they are mended, and the log says which.
//
// Anything, when Consul is restored from a snapshot: then the queue is what it was when
// the snapshot was taken.
//
// # How it works
//
// A queue has one or more shards. For each the brokers elect one with package election,
// which keeps the whole shard in memory and is the only one to write it.
//
// Items lie in segments of up to 256, written once. Beside a segment's items lies their
// state, as ranges, which is rewritten as it changes; most items never have any state of
// their own. One head has the counters. Commands change the memory at once, and
// everything that they have changed since the last transaction goes into the next one,
// while one is on its way: so a transaction, which costs Consul one write to its disk,
// carries a few items when there is little to do and thousands when there is much.
// Each transaction names the lock of the election, so that only the leader's is carried
// out, and the head that it follows upon, so that none is carried out late.
//
// Leases and heartbeats are in memory only. A new leader gives each claim that it finds
// a whole new lease.
//
// In Consul's UI, for a queue "thumbs":
//
//	queue/config/thumbs                        its configuration
//	queue/leader/leader/thumbs.0               who leads shard 0
//	queue/data/thumbs/0/head                   counters, switches
//	queue/data/thumbs/0/segment/…/…/items      up to 256 items
//	queue/data/thumbs/0/segment/…/…/state      what has become of them
//	queue/data/thumbs/0/dead/…                 dead letters, one each
//	queue/data/thumbs/0/recurring/…            what is enqueued again and again
package queue
