// Package manage is the management API of tasks: downward to the application,
// which learns its own state and asks for things, and upward to operators, who
// find every managed task of a node in the same form.
//
// # Downward
//
// [Listen] makes the socket lifecycle.sock in the task's secrets directory and
// [Serve] answers there, in HTTP and JSON, for one task:
//
//	GET  /v1/           what there is
//	GET  /v1/state      the state, why the task stops and by when
//	GET  /v1/events     the same as server-sent events, one for each change
//	POST /v1/save       save a checkpoint now
//	POST /v1/replicate  {"delta":1}: ask Nomad for one more of the task's group
//
// An event is called "stopping_soon" while a stop is decided and has not begun,
// and else "state"; its data is what /v1/state answers. After that of a
// destroyed task comes "end" and the stream is over.
//
// # Upward
//
// There is one plugin process for each driver of a node. Each serves the tasks
// in its [Registry] at DIR/DRIVER.sock. The process that holds DIR/node.lock
// serves all of them together at DIR/node.sock and, if the operator wants it,
// on TCP:
//
//	GET  /v1/health                         whether every process answers
//	GET  /v1/tasks                          all tasks
//	GET  /v1/tasks/ALLOC/TASK               one; ALLOC may be cut to 8 characters or more
//	GET  /v1/tasks/ALLOC/TASK/state         the same
//	GET  /v1/tasks/ALLOC/TASK/events        as above
//	GET  /v1/tasks/ALLOC/TASK/health        what the job says the task answers,
//	     …/metrics …/config …/profile/PATH  passed on
//	GET  /v1/tasks/ALLOC/TASK/logs/stdout   or stderr; ?tail=100, ?follow=true
//	POST /v1/tasks/ALLOC/TASK/save          save a checkpoint now
//	GET  /metrics                           of the plugin's processes, by label driver
//
// # Guarantees
//
//   - What a task puts into its directories leads nowhere else: no symbolic link
//     is followed, only a socket is removed, and only a regular file is read as
//     a log.
//   - Nobody who uses the API holds up a task's life. A reader that is slow
//     misses states in between, never the last one.
//   - Everything has a limit: connections, streams, headers, bodies, answers of
//     tasks, lines of logs, and time.
//   - When the process that serves the node dies, the kernel frees its lock and
//     another one takes its place within a second. A process that hangs is named
//     in the list, which does without it after two seconds.
//   - Off a unix socket every request needs the token, and off loopback TLS as
//     well; otherwise [Config.Validate] says so and nothing listens.
//   - Tokens are in no log, in no error, and are not passed on to tasks.
//   - A replicate that was answered with success has changed the count by its
//     delta, however many asked at the same time, within the bounds of the job.
//
// # Non-guarantees
//
//   - Whoever can open a task's socket is the task: there is no further check.
//     Where the task's user is not known everybody who reaches the secrets
//     directory may open it, as with Nomad's own api.sock.
//   - States may pass unseen between two events.
//   - A replicate that failed by a lost connection or by time may have been done
//     all the same: Nomad has no way to ask. The error says so ([ErrUnknown]).
//   - Nomad compares the job's index before it writes, not while it does. Two
//     changes in the same moment are both accepted, and the later one wins.
//     [Scaler] sees from the job's versions that it has overwritten another
//     count, and adds it again; it cannot bring back another kind of change. The
//     servers remember few versions (job_tracked_versions, 6), so under many
//     changes at once it may not be able to see: that is an error as well.
//   - Log files lie where the task can write to them. What is read there is what
//     the task left there.
package manage
