// Package driver decorates a Nomad task driver with a lifecycle: hooks, a reason
// and a deadline for every stop, checkpoints, a management API, and order in the
// group. What these are is said in packages hook, reason, checkpoint, manage and
// group; this one has them happen at the right time.
//
// The decorated driver takes the inner driver's task configuration unchanged,
// plus one lifecycle block. A task without that block behaves as it would with
// the inner driver.
//
// # Guarantees
//
//   - No hook prevents a stop. StopTask returns by the task's kill_timeout plus
//     at most [StopOverrun] and the time that the inner driver itself needs.
//   - A start leaves no process behind, whether it fails or the plugin process
//     dies in it: what is being started is in a journal in the allocation's
//     directory until Nomad knows of it. It is ended before the next try, or by
//     the next plugin process.
//   - A state is saved on every stop, unless nothing can take it up again; if it
//     cannot be saved, the stop goes on and a task event says so.
//   - WaitTask delivers exactly one result to every caller.
//   - Every hook's outcome is in a task event.
//
// # Non-guarantees
//
//   - Hooks are at least once. See package hook.
//   - prestop hooks run only when Nomad asks for a stop: not when the process
//     ends by itself, nor when the node loses power. poststop hooks run
//     whenever the plugin sees the process end, so not if the node dies.
//   - Nomad cannot interrupt a start: a stop that is asked for while start
//     hooks run begins when they have ended. Keep their timeouts short.
package driver
