// Package hook runs lifecycle hooks: small actions at a fixed point of a
// task's life, with a time limit, retries and a rule for failure.
//
// # Guarantees
//
//   - A hook ends by its timeout, tries and pauses between them included,
//     whatever its action does. [Run] returns by then.
//   - Hooks of one kind run in the order in which they are written.
//   - An HTTP hook talks only to the place that it names: redirects are not
//     followed, proxies from the environment are not used.
//   - A socket hook reaches only a socket that lies in the task's local/
//     directory, even if the task puts a symbolic link there.
//
// # Non-guarantees
//
//   - At least once, not exactly once: a hook that was running when the plugin
//     or the node died runs again. Hooks must be idempotent.
//   - A command that is cut at its timeout has been given up, not undone. The
//     docker and exec drivers cannot end it: it goes on until it or its task
//     ends.
//
// The package knows nothing of Nomad: the caller says in [Target] how the task
// is reached.
package hook
