// Package cli is the command line of the agent queue.
//
//	queue agent    runs the agent; the other commands ask one
//	queue create   makes a queue, or changes it
//	queue put      adds items
//	queue ls       lists queues
//	queue status   shows a queue, or an item
//	queue watch    shows a queue again and again
//	queue wait     waits until all is done
//	queue dead     lists dead letters
//	queue redrive  tries dead letters again
//	queue recurring  shows or changes what is enqueued again and again
//	queue pause, resume, seal, purge, cancel, delete
//	queue version
//
// Flags have one dash. What a command answers goes to the standard output; errors, logs and
// progress bars go to the standard error.
package cli
