package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/queue/config"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

func (p *program) create() *agent.Command {
	c := p.asking("create [flags] [queue]", "Make a queue, or change it", `
Makes a queue, or gives one that is there another configuration; what is not given is the
default then. Flags describe a queue with one stage, "work". With -config the queue blocks
of files are made, all or the one that is named; they are written as for "queue agent":

  queue "thumbnails" {
    stage "resize" {
      lease      = "15s"
      max_failed = 5
    }
  }

The number of shards of a queue cannot be changed, nor can stages be removed.

`+agent.AskHelp)
	var files agent.Value[[]string]
	files.Flag(c.Flags, "config", "HCL or JSON `file` with queue blocks, or directory of such; may be given several times")
	raw := c.Flags.Bool("json", false, "show the configuration with its defaults as JSON")
	shards := c.Flags.Int("shards", 0, "`number` of parts, each led by one broker (default 1)")
	retention := c.Flags.Duration("retention", 0, "`time` for which finished items and their keys are remembered (default 1m)")
	maxItems := c.Flags.Int("max-items", 0, "`number` of unfinished items that a shard takes (default 2000000)")
	maxDead := c.Flags.Int("max-dead", 0, "`number` of dead letters of a shard at which nothing is handed out any more (default 10000)")
	lease := c.Flags.Duration("lease", 0, "`time` for which a worker may be silent before its items go to others (default 15s)")
	maxRuntime := c.Flags.Duration("max-runtime", 0, "`time` that work on an item may take (default no limit)")
	maxFailed := c.Flags.Int("max-failed", 0, "`number` of failures that make a dead letter (default 5)")
	maxLost := c.Flags.Int("max-lost", 0, "`number` of vanished workers that make a dead letter (default 3)")
	backoff := c.Flags.Duration("backoff", 0, "`time` to wait after the first failure; doubles (default 1s)")
	maxInFlight := c.Flags.Int("max-in-flight", 0, "`number` of items of a shard that may be worked on (default no limit)")
	rate := c.Flags.Float64("rate", 0, "`number` of items of a shard that may be handed out in a second (default no limit)")
	c.Do = func(args []string) error {
		var queues []config.Queue
		switch {
		case files.IsSet():
			all, err := config.Queues(files.V)
			if err != nil {
				return err
			}
			for _, q := range all {
				if len(args) == 0 || q.Name == args[0] {
					queues = append(queues, q)
				}
			}
			if len(queues) == 0 {
				return agent.UsageErrorf("the files have no such queue block")
			}
		default:
			if err := agent.Arguments(args, "a queue"); err != nil {
				return err
			}
			queues = []config.Queue{{Name: args[0], Config: queue.Config{
				Shards: *shards, Retention: queue.Duration(*retention), MaxItems: *maxItems, MaxDead: *maxDead,
				Stages: []queue.Stage{{
					Name: queue.DefaultStage, Lease: queue.Duration(*lease), MaxRuntime: queue.Duration(*maxRuntime),
					MaxFailed: *maxFailed, MaxLost: *maxLost, Backoff: queue.Duration(*backoff), MaxInFlight: *maxInFlight, Rate: *rate,
				}},
			}}}
		}
		if len(args) > 1 {
			return agent.Arguments(args, "one queue")
		}
		return c.ask(shortPatience, func(ctx context.Context, client *queue.Client) error {
			for _, q := range queues {
				cfg, err := client.Create(ctx, q.Name, q.Config)
				if err != nil {
					return fmt.Errorf("queue %q: %w", q.Name, err)
				}
				if *raw {
					if err := p.printJSON(cfg); err != nil {
						return err
					}
					continue
				}
				var stages []string
				for _, s := range cfg.Stages {
					stages = append(stages, s.Name)
				}
				if _, err := fmt.Fprintf(p.Out, "%s: %s, %s %s\n", q.Name, plural(cfg.Shards, "shard"),
					strings.TrimLeft(plural(len(stages), "stage"), "0123456789 "), strings.Join(stages, ", ")); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return c.Command
}

func (p *program) flag(f queue.Flag, synopsis, text string) *agent.Command {
	done := map[queue.Flag]string{queue.Pause: "paused", queue.Resume: "resumed", queue.Seal: "sealed"}[f]
	return p.simple(string(f)+" [flags] <queue>", synopsis, text, func(ctx context.Context, c *queue.Client, name string) (string, error) {
		return done, c.Set(ctx, name, f)
	})
}

func (p *program) purge() *agent.Command {
	return p.simple("purge [flags] <queue>", "Cancel all items that nobody works on",
		"Cancels all items of a queue that nobody works on. Dead letters stay.",
		func(ctx context.Context, c *queue.Client, name string) (string, error) {
			n, err := c.Purge(ctx, name)
			return plural(n, "item") + " cancelled", err
		})
}

func (p *program) delete() *agent.Command {
	c := p.asking("delete [flags] <queue>", "Remove a queue", `
Removes a queue with everything in it.

`+agent.AskHelp)
	force := c.Flags.Bool("force", false, "also if it has unfinished items or dead letters")
	c.Do = func(args []string) error {
		if err := agent.Arguments(args, "a queue"); err != nil {
			return err
		}
		return c.ask(shortPatience, func(ctx context.Context, client *queue.Client) error {
			if !*force {
				st, err := client.Status(ctx, args[0])
				if err != nil {
					return err
				}
				if st.Items > 0 || st.Dead > 0 || !whole(st) {
					return fmt.Errorf("queue %q has %s and %s, or cannot be looked at as a whole; give -force to remove it all the same",
						args[0], plural(st.Items, "unfinished item"), plural(st.Dead, "dead letter"))
				}
			}
			if err := client.Delete(ctx, args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(p.Out, "%s: deleted\n", args[0])
			return err
		})
	}
	return c.Command
}

// parseIDs reads IDs of items.
func parseIDs(args []string) ([]queue.ID, error) {
	ids := make([]queue.ID, len(args))
	for i, a := range args {
		var err error
		if ids[i], err = queue.ParseID(a); err != nil {
			return nil, agent.UsageErrorf("%v", err)
		}
	}
	return ids, nil
}

func (p *program) cancel() *agent.Command {
	c := p.asking("cancel [flags] <queue> <item>…", "End items that are not finished", `
Ends items that are not finished. A worker that has one is told to stop.

`+agent.AskHelp)
	c.Do = func(args []string) error {
		if err := agent.ArgumentsFrom(args, "a queue", "an item"); err != nil {
			return err
		}
		ids, err := parseIDs(args[1:])
		if err != nil {
			return err
		}
		return c.ask(shortPatience, func(ctx context.Context, client *queue.Client) error {
			for len(ids) > 0 {
				n := min(len(ids), queue.MaxBatch)
				results, err := client.Cancel(ctx, args[0], ids[:n])
				if err != nil {
					return err
				}
				ids = ids[n:]
				for _, r := range results {
					text := "cancelled"
					if r.Error != "" {
						text = r.Error
					}
					if _, err := fmt.Fprintf(p.Out, "%s: %s\n", r.ID, text); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return c.Command
}

func (p *program) redrive() *agent.Command {
	c := p.asking("redrive [flags] <queue> [item]…", "Try dead letters again", `
Enqueues dead letters again, all or those that are named. They get new IDs, and their
failures are forgotten.

`+agent.AskHelp)
	c.Do = func(args []string) error {
		if err := agent.ArgumentsFrom(args, "a queue"); err != nil {
			return err
		}
		var ids []queue.ID
		if len(args) > 1 {
			var err error
			if ids, err = parseIDs(args[1:]); err != nil {
				return err
			}
		}
		return c.ask(shortPatience, func(ctx context.Context, client *queue.Client) error {
			n, err := client.Redrive(ctx, args[0], ids)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(p.Out, "%s: %s enqueued again\n", args[0], plural(n, "item")); err != nil {
				return err
			}
			if ids != nil && n < len(ids) {
				return fmt.Errorf("%d of %d were not among the dead letters", len(ids)-n, len(ids))
			}
			return nil
		})
	}
	return c.Command
}

func (p *program) dead() *agent.Command {
	c := p.asking("dead [flags] <queue>", "List dead letters", `
Lists items that were given up, with the reasons.

`+agent.AskHelp)
	raw := c.Flags.Bool("json", false, "show each as a line of JSON")
	limit := c.Flags.Int("limit", 0, "`number` of dead letters that are shown (default all)")
	c.Do = func(args []string) error {
		if err := agent.Arguments(args, "a queue"); err != nil {
			return err
		}
		return c.ask(shortPatience, func(ctx context.Context, client *queue.Client) error {
			t := newTable(p.Out)
			shown, from := 0, ""
			for {
				page, err := client.Dead(ctx, args[0], from)
				if err != nil {
					return err
				}
				for i := range page.Dead {
					if *limit > 0 && shown == *limit {
						return t.flush()
					}
					if err := p.oneDead(t, &page.Dead[i], *raw, shown == 0); err != nil {
						return err
					}
					shown++
				}
				if from = page.Next; from == "" {
					break
				}
			}
			if shown == 0 && !*raw {
				_, err := fmt.Fprintln(p.Out, "no dead letters")
				return err
			}
			return t.flush()
		})
	}
	return c.Command
}

func (p *program) oneDead(t table, d *queue.DeadLetter, raw, first bool) error {
	if raw {
		return p.printJSON(d)
	}
	if first {
		t.row("ITEM", "STAGE", "FAILED", "LOST", "WORKER", "AT", "REASON", "INPUT")
	}
	t.row(d.ID, d.Stage, strconv.Itoa(d.Failed), strconv.Itoa(d.Lost), d.Worker, d.At.Local().Format(time.DateTime), d.Reason, inputOf(d.Item))
	return nil
}
