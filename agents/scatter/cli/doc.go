// Package cli is the command line of the agent scatter.
//
//	scatter agent    runs the agent; the other commands ask one
//	scatter status   shows its routes
//	scatter query    asks a route
//	scatter version
//
// Flags have one dash. What a command answers goes to the standard output; errors, logs and
// the headers that tell the coverage of an answer go to the standard error.
package cli
