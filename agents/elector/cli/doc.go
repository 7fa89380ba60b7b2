// Package cli is the command line of the elector.
//
//	elector agent      runs the agent
//	elector run        runs a command only while this process leads; needs no agent
//	elector status     shows elections, asked from an agent, as the next three do
//	elector watch      shows the changes of an election
//	elector resign     gives a leadership away
//	elector hand-over  gives a leadership to a certain candidate
//	elector version
//
// Flags have one dash. What a command answers goes to the standard output; errors and
// logs go to the standard error.
package cli
