// Package group orders the tasks of one allocation and runs the hooks of the
// allocation as a whole, although its tasks live in several plugin processes
// (one for each inner driver) that do not know each other.
//
// The processes meet in a directory of the allocation, see [Dir]. Each task has
// one file there, which only its own process writes, and each group hook has a
// lock and, when it has ended, a mark. Nothing else is shared: no process leads,
// and none is needed by another one to go on. A task costs one small file, written
// at its start and at each change of its state; the others' files are read only by
// those who have something to wait for or to declare. They are their owner's alone
// to read, because hooks can hold secrets.
//
// # Guarantees
//
//   - A reader finds a task's last state or the one before, never half of it,
//     whenever the writer is killed.
//   - [Group.AwaitPredecessors] returns when its context ends, at the latest. It
//     waits for a task only while that task stops, or is certain to be stopped.
//   - Tasks that wait for each other in a circle are refused. Of two that
//     complete a circle by joining at once, at least one is refused.
//   - A group hook is never run by two processes at once, and never again after
//     it has ended without an error. One whose process died is run again by
//     whoever asks next, or waits already, for it: see [Group.Once].
//
// # Non-guarantees
//
//   - Group hooks are at least once: one that was cut by the death of its process
//     runs again. Hooks must be idempotent.
//   - Order is best effort by design, as Nomad's own: a task whose time is up
//     stops although its predecessor has not, and a predecessor that is not seen
//     (another driver, no lifecycle block) is not waited for.
//   - Whether the whole allocation stops is the caller's knowledge. Without it a
//     predecessor is waited for only if its stop begins within a settle time of a
//     quarter of a second, as on "nomad alloc restart".
//   - Files are not synced to the disk, except for the marks of hooks that have
//     ended: with the machine the tasks are gone as well.
//   - A process that is stopped by a signal (SIGSTOP) while it runs a group hook
//     keeps it. Those who wait for it wait until their contexts end.
//
// # Order of stops
//
// Nomad stops an allocation in three steps, each when the one before has ended:
// the leader, all other tasks, the sidecars. Tasks of one step are stopped at
// once, and on a restart all tasks are. stop_after brings order into what
// happens at once. It cannot change the steps: [Plan.Validate] refuses a task
// that is to stop after one of a later step.
//
// If no task of the group has a stop_after, sidecars stop in the reverse order
// of their first start, as native sidecars do in Kubernetes.
//
// A task's kill_timeout runs while it waits, because Nomad has asked for its
// stop already: it must be longer than its predecessors' and its own stop take
// together.
//
// # Order of starts
//
// There is nothing here for it, because Nomad has it: main tasks wait for
// prestart sidecars to run, poststart tasks for main tasks. A task runs, for
// Nomad, when its driver's StartTask returns, and that returns when the task's
// ready hooks have succeeded. So a sidecar with a ready hook holds the main
// tasks back whatever their drivers are, and "alloc restart -all-tasks" keeps
// that order as well.
//
// # Group hooks
//
// A group hook is declared on one task, any, and belongs to the allocation. It
// runs once in its life: restarts in place do not run it again. When it is due,
// and what happens if the declaration comes to light late, is said at the events,
// [OnCreated] to [OnStopped].
package group
