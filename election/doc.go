// Package election elects leaders with Consul: one process out of many does the work,
// and another one takes over when it stops, dies or is cut off. It is the leader
// election of section 5.1 of Burns and Oppenheimer, Design patterns for container-based
// distributed systems, as a library; agents/elector is the same as a sidecar.
//
// # What is guaranteed
//
// In the modes strict and balanced no two processes trust that they lead the same
// election at the same time, that is, [Leadership.Valid] is true for at most one of
// them, as long as
//
//   - clocks that measure durations differ in rate by less than a tenth,
//   - all candidates keep to this package's rules; a process that writes to the lock
//     keys by itself need not, but see below for people who do,
//   - all candidates of an election have the same mode and TTL; if not, each respects what
//     the leader before it had, unless somebody has deleted or overwritten the key, and
//   - Consul's Raft log is not lost.
//
// This holds when processes are killed or frozen, when connections break or hang, when
// Consul loses its leader, when its session is destroyed, and when an operator deletes,
// releases or overwrites the key of a lock.
//
// In all modes the fencing tokens of an election rise from term to term, also when the
// key is deleted, and when Consul is restored from a snapshot; and a transaction of
// [Leadership.KV] is carried out only while its term holds the lock.
//
// Leadership ends within the trust window after the last word from Consul. Nothing is
// needed for that but the process's own clock.
//
// # What is not guaranteed
//
// That work done under a leadership is done by one process only. Between a look at
// Valid and the write that follows lies a moment in which the process can be stopped
// for an hour; the write then comes from a leader of the past. No lock service can
// prevent that, because it is not between the process and what it writes to. What can
// is the fencing token: send it with every write, and have the receiver refuse a token
// lower than the highest it has seen. Package election/fence does this for receivers in
// Go, and docs/election.md shows it for SQL. For Consul's own KV there is
// [Leadership.KV]. A database that checks the token needs no more than mode fenced, the
// fastest one.
//
// Mode fenced itself lets the next leader in while the one before it may still trust to
// lead, for up to a trust window.
//
// After Consul was restored from a snapshot that is older than the present leader, a
// process that knows nothing of that leader can lead beside it until the leader has
// noticed, a trust window at most: one that begins to take part after the restore, or
// one that was frozen or cut off since before the leader's term. It reads a lock key that says
// it was released, and believes it. Processes that have seen the leader wait.
//
// That somebody leads: while Consul has no leader, nobody does after a trust window.
//
// # How it works
//
// A process has one Consul session for each mode in use, however many elections it takes
// part in. In balanced and fenced the session hangs on a TTL check at the local agent,
// which a heartbeat keeps passing: Consul gives the process up a TTL after the last one
// (1.5 s). In strict it is a session with a TTL of its own, of 10 s at least, after which
// Consul waits as long again.
//
// One blocking query follows all keys under the prefix. Beside it a consistent read asks
// for the index of the prefix, three times in a trust window. If the index is that of
// what the query has shown, every lock that it showed as ours was ours when the read was
// sent: from that moment all terms are trusted for another window. So the cost of trust
// does not depend on the number of elections, and an idle process causes no Raft writes.
//
// A lock is taken by a transaction that names the index at which the key was seen free,
// so the decision and the write cannot come apart. Who dies leaves the key as it was;
// the others then wait for the window that the dead one had written into it. Who resigns
// stops first and then releases the key with a mark, and nobody waits. Candidates are
// ranked by priority and rendezvous hashing and try one after the other.
//
// The fencing token is the Raft index of the write that took the lock. Keys are never
// deleted.
package election
