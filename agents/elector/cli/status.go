package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/election"
)

func newStatus(p *agent.Program) *agent.Command {
	c := p.Command("status [flags] [election]", "Show elections", `
Shows all elections that the agent knows, or one with its candidates.

TRUSTED is for how long the agent may rely on its own leadership. OBSERVED is the
time since Consul last confirmed what is shown.

`+agent.AskHelp+`
With -self: 0 if this agent leads the election now, 4 if it does not.`)
	where := declare(c)
	raw := c.Flags.Bool("json", false, "show the agent's answer as it is")
	joined := c.Flags.Bool("joined", false, "only elections in which this agent is a candidate")
	self := c.Flags.Bool("self", false, "show nothing; the exit code says whether this agent leads")
	c.Do = func(args []string) error {
		switch {
		case len(args) == 0 && *self:
			return agent.UsageErrorf("-self needs an election")
		case len(args) == 1 && *joined:
			return agent.UsageErrorf("-joined is for all elections")
		case len(args) > 0:
			if err := agent.Arguments(args, "at most one election"); err != nil {
				return err
			}
		}
		client, err := newClient(where)
		if err != nil {
			return err
		}
		ctx, cancel := agent.UntilSignal()
		defer cancel()
		if len(args) == 0 {
			return statusOfAll(ctx, p.Out, client, *joined, *raw)
		}
		body, err := client.do(ctx, http.MethodGet, electionPath(args[0], ""))
		if err != nil {
			return err
		}
		if *raw && !*self {
			return write(p.Out, body)
		}
		st, err := decode[election.Status](body)
		switch {
		case err != nil:
			return err
		case !*self:
			return showOne(p.Out, st)
		case !st.Self:
			return &agent.ExitError{Code: exitNotSelf}
		}
		return nil
	}
	return c
}

func statusOfAll(ctx context.Context, out io.Writer, c *client, joined, raw bool) error {
	path := "/v1/elections"
	if joined {
		path += "?joined=true"
	}
	body, err := c.do(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	if raw {
		return write(out, body)
	}
	answer, err := decode[struct {
		Elections []election.Status `json:"elections"`
	}](body)
	if err != nil {
		return err
	}
	if len(answer.Elections) == 0 {
		return write(out, []byte("no elections\n"))
	}
	return showAll(out, answer.Elections)
}

func newWatch(p *agent.Program) *agent.Command {
	c := p.Command("watch [flags] <election>", "Show the changes of an election", `
Shows an election now and at each change, one line each, until it is interrupted.

`+agent.AskHelp)
	where := declare(c)
	raw := c.Flags.Bool("json", false, "show each status as JSON, also those that come every 5 seconds without a change")
	c.Do = func(args []string) error {
		if err := agent.Arguments(args, "one election"); err != nil {
			return err
		}
		client, err := newClient(where)
		if err != nil {
			return err
		}
		ctx, cancel := agent.UntilSignal()
		defer cancel()
		last := ""
		err = client.follow(ctx, electionPath(args[0], "/watch"), func(data []byte) error {
			if *raw {
				return write(p.Out, append(data, '\n'))
			}
			st, err := decode[election.Status](data)
			if err != nil {
				return err
			}
			line := line(st)
			if line == last {
				return nil
			}
			last = line
			return write(p.Out, []byte(time.Now().Format("15:04:05.000")+"  "+line+"\n"))
		})
		// The context of untilSignal ends by nothing else.
		if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
			return nil
		}
		return err
	}
	return c
}

// decode reads what an agent has sent. Fields that a newer agent has are ignored.
func decode[T any](body []byte) (value T, err error) {
	if err := json.Unmarshal(body, &value); err != nil {
		return value, fmt.Errorf("the agent's answer is not what an elector says: %w", err)
	}
	return value, nil
}

func write(out io.Writer, text []byte) error {
	_, err := out.Write(text)
	return err
}

// showAll writes a table.
func showAll(out io.Writer, all []election.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { _, _ = fmt.Fprintln(w, strings.Join(cells, "\t")) } // Flush has the error
	row("ELECTION", "MODE", "LEADER", "ADDRESS", "TOKEN", "TERM", "TRUSTED", "OBSERVED", "CANDIDATES")
	for _, st := range all {
		leader, address := leader(st)
		row(st.Election, string(st.Mode), leader, address, number(st.Token), number(st.Term),
			trusted(st), observed(st), fmt.Sprint(len(st.Candidates)))
	}
	return w.Flush()
}

// showOne writes what is known of an election.
func showOne(out io.Writer, st election.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { _, _ = fmt.Fprintln(w, strings.Join(cells, "\t")) } // Flush has the error
	leader, address := leader(st)
	row("Election", st.Election)
	row("Mode", string(st.Mode))
	row("Leader", leader)
	row("Address", address)
	if st.Leader != nil && len(st.Leader.Meta) > 0 {
		row("Meta", pairs(st.Leader.Meta))
	}
	row("Token", number(st.Token))
	row("Term", number(st.Term))
	row("Trusted", trusted(st))
	row("Observed", observed(st))
	if st.Error != "" {
		row("Error", st.Error)
	}
	if err := w.Flush(); err != nil || len(st.Candidates) == 0 {
		return err
	}
	row()
	row("RANK", "CANDIDATE", "ADDRESS", "META")
	for _, c := range st.Candidates {
		row(fmt.Sprint(c.Rank), c.ID, dash(c.Address), dash(pairs(c.Meta)))
	}
	return w.Flush()
}

// line is an election without what changes all the time.
func line(st election.Status) string {
	id, address := leader(st)
	text := fmt.Sprintf("leader %s  address %s  token %s  term %s  candidates %d", id, address, number(st.Token), number(st.Term), len(st.Candidates))
	if st.Error != "" {
		text += "  error: " + st.Error
	}
	return text
}

func leader(st election.Status) (id, address string) {
	if st.Leader == nil {
		return "-", "-"
	}
	id = st.Leader.ID
	if st.Self {
		id += " (this agent)"
	}
	return id, dash(st.Leader.Address)
}

func trusted(st election.Status) string {
	if !st.Self {
		return "-"
	}
	return st.Trusted.Round(time.Millisecond).String()
}

func observed(st election.Status) string {
	if st.Observed < 0 {
		return "never"
	}
	return st.Observed.Round(time.Millisecond).String()
}

func number(n uint64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func pairs(meta map[string]string) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(meta)) {
		list = append(list, k+"="+meta[k])
	}
	return strings.Join(list, " ")
}
