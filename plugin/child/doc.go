// Package child makes any driver plugin binary the inner driver: it runs the
// binary as a go-plugin child, as Nomad's agent would, and speaks the plugin
// protocol with it.
//
// # Guarantees
//
//   - A child that ends is started again, with the configuration that Nomad has
//     set last, and is handed all tasks that it had (RecoverTask). Meanwhile
//     nobody is told that a task has ended: WaitTask waits again, StopTask and
//     most other calls wait for the task's recovery, for a limited time. The
//     streams of events and fingerprints go on; the fingerprint says unhealthy.
//   - A task that the new child cannot recover gets an exit result with the
//     reason. It is not reported as still running.
//   - The child does not outlive this process, however this process ends. What
//     the child has started lives on, as it does when Nomad's agent dies: its
//     executors are in sessions of their own, its containers are not its children.
//   - A file that is no driver plugin, speaks another version, hangs, or is
//     itself a lifecycle driver is refused within a limited time, with an error
//     that names the file and what it wrote.
//
// # Non-guarantees
//
//   - A child that still answers its health check but hangs in one call makes
//     that call hang. Nomad does not bound calls to drivers either.
//   - A child that ends in the middle of StartTask is asked once more, as Nomad
//     would do. What it had begun is cleaned up only if its driver does so by
//     itself: docker does by the container's name, exec and raw_exec do not.
//   - exec and signals are not repeated after a crash: they may have been done.
//   - Events that the child makes between its start and our subscription are
//     lost.
//   - Whatever the plugin protocol drops (see Nomad's plugins/drivers/server.go)
//     is dropped here too: MountConfigs and DisableLogCollection of the child's
//     capabilities read as their zero values.
//   - What a newer Nomad asks of its drivers and this version does not (Init and
//     Shutdown of 2.0.4) is not asked of the child.
//   - A wrapper script has to exec the plugin. Otherwise it is the script that
//     ends with this process, and the plugin goes on without anybody.
//   - A binary with file capabilities or a set-user-ID bit loses the tie to this
//     process when it starts; the kernel clears it.
//
// # Upgrade
//
// Replace the file by renaming the new one over it, then end the child (the log
// has its process ID): the next child is the new file, and it recovers the
// tasks, which go on. The log says which version was started and which one was
// before it. That a file waits for being used shows in the log and as the node
// attribute driver.<name>.plugin.replaced; driver.<name>.plugin.version is the
// version that runs. An upgrade must not change the driver's name.
package child
