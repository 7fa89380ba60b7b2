package cli

import (
	"io"

	"github.com/nomad-patterns/nomad-patterns/agents/elector/config"
	"github.com/nomad-patterns/nomad-patterns/agents/elector/runner"
	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
)

// exitNotSelf is the exit code of status -self if somebody else leads, or nobody. The
// other ones are those of package agent.
const exitNotSelf = 4

// Main runs the command line and returns the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == runner.GuardCommand {
		return runner.Guard(args[1:]) // "elector run" starts it; not for people
	}
	p := &agent.Program{Name: "elector", Out: stdout, Err: stderr}
	return p.Main(args,
		agentRunner().Command(p),
		newRun(p), newStatus(p), newWatch(p), newResign(p), newHandOver(p),
		p.VersionCommand(),
	)
}

// declare declares the flags that say where the agent is.
func declare(c *agent.Command) *agent.ClientFlags {
	f := &agent.ClientFlags{}
	f.Declare(c.Flags, "elector", config.DefaultListen)
	return f
}
