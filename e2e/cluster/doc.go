// Package cluster starts a real Consul and a real Nomad on this machine and
// leaves nothing behind. The end-to-end tests, the demo, the benchmarks and
// "make up" all use it.
//
// A cluster is one Consul server, one Nomad server and any number of Nomad
// client agents, each a process of its own, all listening on loopback. The
// server runs no tasks, so a test may kill any client it likes. [StartConsul]
// starts a Consul of several servers and client agents without Nomad, whose
// agents a test may kill and pause one by one.
//
// # Guarantees
//
//   - When [Start] returns, Consul has a leader and accepts writes, Nomad has
//     a leader, every client node is ready, every driver that [Cluster.Drivers]
//     names is healthy on every node, and Consul knows the Nomad services.
//   - [Cluster.Stop] ends within its deadline and takes away everything that
//     the cluster brought: agents, executors, tasks, containers, mounts,
//     network namespaces, cgroups, files. [Cluster.Leftovers] tells what it
//     could not take away.
//   - The same happens when the owner dies without calling Stop: a watchdog
//     process sees the end of the owner and sweeps. Should the watchdog be
//     killed too, then the next [Start], or [Sweep], does it.
//
// # What is not guaranteed
//
//   - The agents speak plain HTTP without ACLs. They listen on loopback only,
//     but every local user may use them.
//   - All clients share one machine, so what belongs to the machine (Docker
//     engine, bridge "nomad", iptables chains) is shared between them, and
//     each client believes that the whole CPU and memory are its own.
//   - What a task puts outside its own directories (a daemon that clears its
//     environment and moves to another session and cgroup, files in /tmp) is
//     not found.
package cluster
