// Package reason finds out why Nomad stops a task.
//
// Nomad tells a task driver that a task stops, but not why. The servers know:
// they have committed their decision before the client hears of it. [Client.Why]
// asks them, [Classify] reads their answer, and a [Watcher] hears of a decision
// before the task is asked to stop.
//
// # Guarantees
//
//   - [Classify] is a pure function: the same answers give the same verdict.
//     What it cannot tell is [Unknown], never a guess that calls a stop final.
//   - [Client.Why] returns within [WhyLimit], whatever the server does.
//   - No answer of a server, and no frame of its event stream, makes the
//     process hold more than a few megabytes.
//   - The token goes to the configured address only, and is in no error.
//   - A Watcher has no goroutine left once nothing is watched or its context
//     has ended, and does not ask a server that refuses more than about once a
//     minute.
//
// # Non-guarantees
//
//   - A restart is decided on the node and reaches the servers only with the
//     task's events, within about a second. If they do not come within [WhyLimit]
//     then the reason is unknown. If a task is stopped again within that time
//     after a restart, it may be told the cause of the stop before.
//   - When a task fails, or a leader or the main tasks have completed, Nomad
//     kills the tasks beside it and tells the servers the cause only when all
//     are dead. Until then it is inferred from how the other has ended, after
//     half of WhyLimit.
//   - The servers forget an allocation that is purged with its job. Only if this
//     process has read it before can it tell that from the wrong cluster's never
//     having known it; else the reason is unknown.
//   - Nomad does not say why a job was updated. A canary that is given up and a
//     group that is made smaller look the same, so both are [ScaledDown].
//   - A Watcher may miss states in between: fn gets the newest one. It may hear
//     of a stop only after the stop has begun; on an agent that does not serve
//     the event stream it hears of none.
//
// # Permissions
//
// With ACLs on, the token needs read-job in the namespaces of the tasks, and
// node read to tell a drain from an operator's stop on servers that mark them
// alike.
package reason
