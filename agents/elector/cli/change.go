package cli

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
)

func newResign(p *agent.Program) *agent.Command {
	c := p.Command("resign [flags] <election>", "Give a leadership away", `
Makes the agent give up the leadership of an election: other candidates go first. If
the agent joined by its configuration it stays a candidate, otherwise it leaves.

`+agent.AskHelp)
	where := declare(c)
	raw := c.Flags.Bool("json", false, "show the agent's answer as it is")
	leave := c.Flags.Bool("leave", false, "be no candidate any more; -leave=false: stay one")
	c.Do = func(args []string) error {
		if err := agent.Arguments(args, "one election"); err != nil {
			return err
		}
		query := ""
		if c.IsGiven("leave") {
			query = fmt.Sprintf("?leave=%t", *leave)
		}
		return change(p, where, electionPath(args[0], query), *raw, args[0]+": resigned")
	}
	return c
}

func newHandOver(p *agent.Program) *agent.Command {
	c := p.Command("hand-over [flags] <election> <candidate>", "Give a leadership to a candidate", `
Makes the agent, which has to be the leader, give the leadership of an election to a
certain live candidate. "elector status <election>" lists the candidates.

`+agent.AskHelp)
	where := declare(c)
	raw := c.Flags.Bool("json", false, "show the agent's answer as it is")
	c.Do = func(args []string) error {
		if err := agent.Arguments(args, "an election", "a candidate"); err != nil {
			return err
		}
		path := electionPath(args[0], "?to="+url.QueryEscape(args[1]))
		return change(p, where, path, *raw, args[0]+": handed over to "+args[1])
	}
	return c
}

// change sends a DELETE and says what has been done.
func change(p *agent.Program, where *agent.ClientFlags, path string, raw bool, done string) error {
	client, err := newClient(where)
	if err != nil {
		return err
	}
	ctx, cancel := agent.UntilSignal()
	defer cancel()
	body, err := client.do(ctx, http.MethodDelete, path)
	if err != nil {
		return err
	}
	if raw {
		return write(p.Out, body)
	}
	return write(p.Out, []byte(done+"\n"))
}
