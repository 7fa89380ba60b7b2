// Package dockerguard keeps from Nomad's docker driver what the version that is
// built in here (v1.11.3) should refuse and does not.
//
// Two holes are known in it, both closed in Nomad 2.0.4 (CVE-2026-14891 and what
// was released with it):
//
//   - Host namespaces. The documentation says that pid_mode, ipc_mode and
//     uts_mode need the operator's allow_privileged; the driver hands all modes
//     to the engine unseen.
//   - Symbolic links. With volumes.enabled = false a job may mount only what is
//     in its allocation's directory; the driver compares the names of paths, and
//     the engine follows the links that lie there.
//
// [Policy.Check] has to be asked right before each StartTask of the driver: what a
// container has left behind, be it a task's earlier start or a hook's, is what
// the next one meets.
//
// # Guarantees
//
//   - Without allow_privileged, a task runs in the host's or another container's
//     PID, IPC, UTS, user or cgroup namespace only if the operator has named that
//     namespace in allow_host_namespaces: pid, ipc, uts, userns, cgroupns. What is not known to be harmless is
//     refused, so that an engine with more modes than Docker brings no surprise.
//   - With volumes.enabled = false, every path that the driver will mount is
//     looked up with its symbolic links, and refused if it leads out of the
//     allocation's directory: those of volumes, mount and mounts, and the
//     driver's own (alloc, local, secrets, hosts, resolv.conf), which a task may
//     have exchanged for links through a mount of the directory above.
//   - An error names the field and what would help.
//
// # Non-guarantees
//
//   - The engine looks the path up again when it mounts. Whoever can write where
//     the path leads may exchange a part of it for a link between the check and
//     the mount: another running task of the same allocation, in a path below the
//     shared alloc directory or one that both have mounted; and a container of
//     the same task that has not ended yet. A task's first start is safe from
//     itself. Only the engine could close this; a client whose jobs do not trust
//     their own tasks needs Nomad 2.0.4 or later as well, and has the same gap
//     there as far as is known.
//   - What the driver lets jobs do knowingly stays: network_mode "host" and
//     "container:", devices, security_opt, and a load archive that is a link.
//     Nomad 2.0.4 leaves network_mode alone, too.
//   - With volumes.enabled = true no path is looked at. Jobs may then mount any.
//
// # Differences from Nomad 2.0.4
//
// That driver has an option of its own, allowed_modes, with a list of modes for
// each of pid, ipc, uts and userns. The built-in one does not know it and would
// refuse it, so the option here is the decorator's: allow_host_namespaces, a list
// of namespaces. It covers cgroupns as well. [Needed] is false for a driver that
// has allowed_modes, such as a newer one run as a child.
package dockerguard
