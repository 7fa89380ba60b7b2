package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/server"
)

func newStatus(p *agent.Program) *agent.Command {
	c := p.Command("status [flags]", "Show routes", `
Shows the routes of an agent.

EJECTED leaves are not asked for a while, because they have failed. HEDGE AFTER is when
another replica is asked as well; HEDGES counts those that were faster, and all. SHORT
counts requests that have failed because too little had answered.

`+agent.AskHelp)
	where := declare(c)
	raw := c.Flags.Bool("json", false, "show the agent's answer as it is")
	c.Do = func(args []string) error {
		if err := agent.Arguments(args); err != nil {
			return err
		}
		client, err := newClient(where)
		if err != nil {
			return err
		}
		ctx, cancel := agent.UntilSignal()
		defer cancel()
		body, err := client.get(ctx, "/v1/routes")
		if err != nil {
			return err
		}
		if *raw {
			_, err := p.Out.Write(body)
			return err
		}
		var answer struct {
			Routes []server.RouteStatus `json:"routes"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return fmt.Errorf("the agent's answer is not what a root says: %w", err)
		}
		return showRoutes(p.Out, answer.Routes)
	}
	return c
}

func showRoutes(out io.Writer, routes []server.RouteStatus) error {
	if len(routes) == 0 {
		_, err := fmt.Fprintln(out, "no routes")
		return err
	}
	t := newTable(out)
	t.row("ROUTE", "PATTERN", "SHARDS", "LEAVES", "EJECTED", "HEDGE AFTER", "HEDGES", "REQUESTS", "SHORT")
	for _, r := range routes {
		leaves, ejected := 0, 0
		for _, s := range r.Shards {
			leaves += len(s.Leaves)
			for _, l := range s.Leaves {
				if l.Ejected {
					ejected++
				}
			}
		}
		n := r.Counters
		t.row(r.Name, r.Pattern, len(r.Shards), leaves, ejected, latency(r.HedgeAfterMS),
			fmt.Sprintf("%d/%d", n.HedgeWon, n.Hedged), n.Requests, n.Short)
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, r := range routes {
		if r.Consul == "" {
			continue
		}
		since := ""
		if r.Since != nil {
			since = " since " + r.Since.Local().Format(time.DateTime)
		}
		if _, err := fmt.Fprintf(out, "\n%s: the leaves may be others by now, for Consul cannot be asked%s: %s\n", printable(r.Name), since, printable(r.Consul)); err != nil {
			return err
		}
	}
	return nil
}

// latency shows a time as exactly as it is of use; "-" if it is not known.
func latency(ms float64) string {
	if ms <= 0 {
		return "-"
	}
	d := time.Duration(ms * float64(time.Millisecond))
	unit := 10 * time.Millisecond
	for unit > time.Microsecond && d < 100*unit {
		unit /= 10
	}
	return d.Round(unit).String()
}
