// Package runner runs a command only while this process leads an election.
//
//	elector run -election publisher -- /bin/publish
//
//	 elector run                  guard                      command
//	┌────────────┐  deadlines   ┌─────────────┐  parent of  ┌───────────────────┐
//	│ takes part ├─────────────►│ kills in    ├────────────►│ own process group │
//	│            │◄─────────────┤ time        │             └───────────────────┘
//	└────────────┘  reports     └─────────────┘
//
// The command's parent is a guard, which is the same program once more. It is told
// until when the leadership can be trusted, each time that moves, and ends the command
// when that time comes, whether anybody is there to tell it so or not.
//
// What is promised, with the trust window of package election and its clock:
//   - When leadership is lost or about to end, the command gets SIGTERM, and what is
//     left of it SIGKILL before the trust window ends. Then the lock is released.
//   - So it is when this process is killed, or frozen (SIGSTOP, a starved machine):
//     the guard needs nobody.
//   - Everything that the command has started goes with it: the guard is the reaper of
//     all orphans below it, so neither a process group nor a session of their own
//     saves them.
//   - If the guard alone is killed, so is the command, by the kernel, and the rest by
//     this process, which is the next reaper.
//   - If the guard alone is frozen, this process kills it and the command at the end of
//     trust.
//
// What is not:
//   - If the guard and this process are killed in the same moment, the command dies
//     (Linux: its parent death signal), but what it has started may live on. Nomad and
//     systemd kill whole control groups, so this takes a kill by hand.
//   - If guard and this process are frozen and the command is not, nobody ends it.
//     Freezing a whole container or machine freezes the command too; when it wakes up,
//     it may run for a moment until the guard, which wakes up with it, has killed it.
//   - Processes that have left the command's process group are killed a moment after
//     it, because they have to be looked for.
//   - A process in an uninterruptible call (a dead NFS server) dies when it returns.
//
// Against the rest nothing helps but the fencing token, $ELECTION_TOKEN, at whatever
// the command writes to.
package runner
