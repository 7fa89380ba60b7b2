// Package hook runs an operator's command when this process begins or ceases to lead
// an election.
//
// What is promised:
//   - A command ends by its timeout. Whatever it has started in its process group is
//     killed with it, so nothing of it goes on after [Run] has returned; what should
//     last has to be handed to a service manager, or call setsid.
//   - Its output is in the log, one entry for each line.
//   - When the elector is killed, the command itself is killed too.
//
// What is not: a command is run at least once for a gain or loss that the elector
// lives to see, and never for one that it does not. Nobody is told of a gain when the
// process dies before the command starts. Make commands idempotent.
package hook
