package cli

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/hashicorp/cli"
)

func newResign(s streams) cli.Command {
	c := newCommand(s, "resign [flags] <election>", "Give a leadership away", `
Makes the agent give up the leadership of an election: other candidates go first. If
the agent joined by its configuration it stays a candidate, otherwise it leaves.

`+askHelp)
	var where clientFlags
	where.declare(c.flags)
	raw := c.flags.Bool("json", false, "show the agent's answer as it is")
	leave := c.flags.Bool("leave", false, "be no candidate any more; -leave=false: stay one")
	c.run = func(args []string) error {
		if err := arguments(args, "one election"); err != nil {
			return err
		}
		query := ""
		if isGiven(c.flags, "leave") {
			query = fmt.Sprintf("?leave=%t", *leave)
		}
		return change(s, &where, electionPath(args[0], query), *raw, args[0]+": resigned")
	}
	return c
}

func newHandOver(s streams) cli.Command {
	c := newCommand(s, "hand-over [flags] <election> <candidate>", "Give a leadership to a candidate", `
Makes the agent, which has to be the leader, give the leadership of an election to a
certain live candidate. "elector status <election>" lists the candidates.

`+askHelp)
	var where clientFlags
	where.declare(c.flags)
	raw := c.flags.Bool("json", false, "show the agent's answer as it is")
	c.run = func(args []string) error {
		if err := arguments(args, "an election", "a candidate"); err != nil {
			return err
		}
		path := electionPath(args[0], "?to="+url.QueryEscape(args[1]))
		return change(s, &where, path, *raw, args[0]+": handed over to "+args[1])
	}
	return c
}

// change sends a DELETE and says what has been done.
func change(s streams, where *clientFlags, path string, raw bool, done string) error {
	client, err := where.client()
	if err != nil {
		return err
	}
	ctx, cancel := untilSignal()
	defer cancel()
	body, err := client.do(ctx, http.MethodDelete, path)
	if err != nil {
		return err
	}
	if raw {
		return write(s.out, body)
	}
	return write(s.out, []byte(done+"\n"))
}
