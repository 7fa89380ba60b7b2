package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

func (p *program) recurring() *agent.Command {
	c := p.asking("recurring [flags] <queue> [name] [input]", "Show or change what is enqueued again and again", `
Lists the items of a queue that are enqueued again and again, with the next time. With a
name and an input it adds one, or changes the one of this name:

  queue recurring -cron='30 3 * * *' reports nightly /data/reports
  queue recurring -delete reports nightly

Times are in UTC. What was missed while no broker led is made up for once.

`+agent.AskHelp)
	raw := c.Flags.Bool("json", false, "show each as a line of JSON")
	cron := c.Flags.String("cron", "", "`when`, in five fields: minute, hour, day, month, weekday")
	every := c.Flags.Duration("every", 0, "`time` from one to the next, a second at least; in place of -cron")
	stage := c.Flags.String("stage", "", "`name` of the stage in which they begin (default the first)")
	priority := c.Flags.Int("priority", 0, "`number` from 0 to 9; higher ones are handed out first")
	group := c.Flags.String("group", "", "`name` of a group, whose items are worked on one after the other")
	var attrs agent.Value[map[string]string]
	attrs.Flag(c.Flags, "attr", "`key=value` that workers are told; may be given several times")
	remove := c.Flags.Bool("delete", false, "end the one of this name; items that are there already stay")
	c.Do = func(args []string) error {
		changes := *cron != "" || *every != 0 || *remove
		switch {
		case *remove:
			if err := agent.Arguments(args, "a queue", "a name"); err != nil {
				return err
			}
		case changes || len(args) > 1:
			if err := agent.Arguments(args, "a queue", "a name", "an input"); err != nil {
				return err
			}
			if (*cron == "") == (*every == 0) {
				return agent.UsageErrorf("give either -cron or -every")
			}
		default:
			if err := agent.Arguments(args, "a queue"); err != nil {
				return err
			}
		}
		return c.ask(shortPatience, func(ctx context.Context, client *queue.Client) error {
			did := "set"
			var err error
			switch {
			case !changes:
				return p.schedules(ctx, client, args[0], *raw)
			case *remove:
				did, err = "deleted", client.DeleteRecurring(ctx, args[0], args[1])
			default:
				err = client.SetRecurring(ctx, args[0], queue.Recurring{
					Name: args[1], Cron: *cron, Every: queue.Duration(*every),
					Item: queue.Item{Input: args[2], Stage: *stage, Priority: *priority, Group: *group, Attrs: attrs.V},
				})
			}
			if err != nil {
				return fmt.Errorf("queue %q: %w", args[0], err)
			}
			_, err = fmt.Fprintf(p.Out, "%s: %s %s\n", args[0], args[1], did)
			return err
		})
	}
	return c.Command
}

// schedules lists them.
func (p *program) schedules(ctx context.Context, client *queue.Client, name string, raw bool) error {
	list, err := client.Recurring(ctx, name)
	if err != nil {
		return err
	}
	if len(list) == 0 && !raw {
		_, err := fmt.Fprintln(p.Out, "nothing is enqueued again and again")
		return err
	}
	t := newTable(p.Out)
	for i, r := range list {
		if raw {
			if err := p.printJSON(r); err != nil {
				return err
			}
			continue
		}
		if i == 0 {
			t.row("NAME", "WHEN", "NEXT (UTC)", "STAGE", "INPUT")
		}
		when, next := r.Cron, "never"
		if when == "" {
			when = "every " + time.Duration(r.Every).String()
		}
		if !r.Next.IsZero() {
			next = r.Next.UTC().Format(time.DateTime)
		}
		t.row(r.Name, when, next, r.Item.Stage, r.Item.Input)
	}
	return t.flush()
}
