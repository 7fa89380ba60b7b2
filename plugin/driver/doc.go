// Package driver decorates a Nomad task driver with lifecycle hooks.
//
// The decorated driver takes the inner driver's task configuration unchanged,
// plus one lifecycle block. A task without that block behaves as it would with
// the inner driver.
//
// # Guarantees
//
//   - No hook prevents a stop. StopTask returns by the task's kill_timeout plus
//     at most [StopOverrun] and the time that the inner driver itself needs.
//   - A task whose start hook fails does not leave its process behind, also
//     when the plugin process dies while the hook runs: what was started is in
//     a journal in the allocation's directory and is ended before the next try.
//   - WaitTask delivers exactly one result to every caller.
//   - Every hook's outcome is a task event.
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
