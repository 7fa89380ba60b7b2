// Package run does items by running a command for each: a program that reads a file and
// writes a file, in whatever language and image.
//
//	worker -- /bin/resize --in $WQ_INPUT --out $WQ_OUTPUT
//
// The worker puts values in the place of $WQ_… in the arguments; no shell is needed. The
// command finds the same variables in its environment, which otherwise is the worker's:
//
//	WQ_INPUT        path of the input, or of the directory with the inputs of a merge
//	WQ_OUTPUT       path where the output has to be when the command has ended; it may
//	                become a directory
//	WQ_ITEM         ID of the item, for example 0-17
//	WQ_CLAIM        number of the attempt
//	WQ_QUEUE        the queue
//	WQ_STAGE        the stage
//	WQ_ATTR_<NAME>  an attribute of the item
//	WQ_PROGRESS     file that the command may write a number from 0 to 1 into
//	WQ_EMIT         file that the command may write the items of the next stage into, one
//	                JSON object a line, in place of one item with the output
//
// What it means how the command ends:
//
//	0               done; without an output it is a failure, unless none is wanted
//	65 (EX_DATAERR) rejected: no other attempt would go better, the item is a dead letter
//	75 (EX_TEMPFAIL), any other code, and a signal
//	                failed: again later, until there were too many failures
//	99              skipped: done, and nothing comes of it
//
// The last lines of its standard error are the reason of a failure. Standard output and
// standard error are passed on to the worker's.
//
// The command has a process group of its own. When it has ended, everything in the group
// is killed. It gets SIGTERM, and SIGKILL after 5 seconds, when its time is over or the
// worker has to end; SIGKILL at once when its lease is lost or its item was cancelled,
// since nobody wants its work any more. When the worker is killed, the kernel kills the
// command with it (Linux: its parent death signal).
//
// What is not promised: of processes that leave the command's process group, those that
// are left when the command has ended are killed if the worker has one slot; with several
// nobody knows whose they are, and they are killed when the worker ends. If the worker is
// killed with SIGKILL they stay, unless its container or control group goes with it, as
// it does in Nomad.
package run
