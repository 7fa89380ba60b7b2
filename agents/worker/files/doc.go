// Package files brings inputs to where a program can read them, and outputs to where
// people and the next stage find them.
//
// # Places
//
// An input is a path, or a URL of a blob store (s3://bucket/key?region=…; file:///path is
// a path). Outputs go below one place, which is a directory or such a URL. A path must be
// below a directory that was allowed. Local inputs are not copied.
//
// # How an output is published
//
// The name of an output comes from the name of the input, see Config.Name. An attempt does
// not write there. It writes to a directory of its own, and goes through these steps:
//
//	<output>/.wq/<queue>/<item>.<claim>.<depth>.run/   the attempt works here
//	<output>/.wq/<queue>/<item>.<claim>.<depth>/<name> its output, whole and synced
//	                                                   the broker is told: ack
//	<output>/<name>                                    published, after it was accepted
//
// (Depth is the number of parts of the name. A blob store has no first step: the attempt
// works in the work directory, and the second step is the upload.)
//
// The output that the broker is told, and hands to the next stage, is the second one. It
// is there before the ack, so the next stage never waits for the publishing; a worker that
// reads it and does not find it any more finds it under the published name.
//
// Guaranteed:
//   - Of all attempts at an item only the one whose ack was accepted is published. Claims
//     are numbers that never come twice, so attempts never share a name, and one that was
//     frozen, or thought lost, cannot touch the output of another.
//   - A published file is whole: it is moved to its name by one rename, or written by one
//     request to a blob store. An output that is a directory is moved by one rename too, in
//     a blob store file by file.
//   - A directory with things in it that is no output, because there are outputs of other
//     items in it for example, is never replaced. See replace.go.
//   - Publishing twice is publishing once.
//   - What is published after an ack survives the loss of power: the file and the
//     directory of step two are synced before the ack. The last rename is not synced; if it
//     is lost the file is back at step two, and Sweep repairs it.
//   - A worker that dies between ack and publishing leaves step two behind. Sweep, which
//     each worker does at its start and now and then, asks the broker which attempt has
//     won, publishes that and removes the others.
//
// Not guaranteed:
//   - The broker forgets finished items after the queue's retention. If no worker has
//     swept by then, nobody knows which attempt has won: Sweep publishes a whole attempt
//     with the highest claim if there is nothing under the name yet, which cannot be wrong
//     unless the item was cancelled or given up; if there is something, it leaves the
//     attempt where it is and says so. Let the retention be longer than the time for
//     which no worker may be running.
//   - Two items can have outputs of the same name, if their inputs have. The later one
//     replaces the earlier one. Put {id} into the name where that must not be.
//   - A blob store has no directories: an output that is one adds its files to what is
//     under its name, and replaces those of the same names.
//   - Side effects of a program elsewhere are its own business; $WQ_CLAIM tells attempts
//     apart.
package files
