package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

func (p *program) ls() *agent.Command {
	c := p.asking("ls [flags]", "List queues", `
Lists all queues. OLDEST is the age of the oldest unfinished item.

`+agent.AskHelp)
	raw := c.Flags.Bool("json", false, "show the agent's answer as JSON")
	c.Do = func(args []string) error {
		if err := agent.Arguments(args); err != nil {
			return err
		}
		return c.ask(shortPatience, func(ctx context.Context, client *queue.Client) error {
			list, err := client.List(ctx)
			switch {
			case err != nil:
				return err
			case *raw:
				return p.printJSON(list)
			case len(list.Queues) == 0:
				_, err := fmt.Fprintln(p.Out, "no queues")
				return err
			}
			t := newTable(p.Out)
			t.row("QUEUE", "STATE", "ITEMS", "READY", "DELAYED", "WAITING", "IN FLIGHT", "DONE", "DEAD", "OLDEST", "WORKERS")
			for i := range list.Queues {
				st := &list.Queues[i]
				var all queue.StageStatus
				for _, s := range st.Stages {
					all.Ready += s.Ready
					all.Delayed += s.Delayed
					all.Waiting += s.Waiting
					all.InFlight += s.InFlight
					all.Done += s.Done
				}
				t.row(st.Queue, stateOf(st), st.Items, all.Ready, all.Delayed, all.Waiting, all.InFlight, all.Done, st.Dead, age(st.OldestMS), len(st.Workers))
			}
			return t.flush()
		})
	}
	return c.Command
}

func (p *program) status() *agent.Command {
	c := p.asking("status [flags] <queue> [item]", "Show a queue, or an item", `
Shows a queue with its stages, workers and shards, or one of its items.

FAILED counts attempts that went wrong, LOST those whose worker vanished. WAITING items
wait for another of their group, and HELD outputs for a merge.

`+agent.AskHelp)
	raw := c.Flags.Bool("json", false, "show the agent's answer as JSON")
	c.Do = func(args []string) error {
		if len(args) == 2 {
			return p.itemStatus(c, args, *raw)
		}
		if err := agent.Arguments(args, "a queue"); err != nil {
			return err
		}
		return c.ask(shortPatience, func(ctx context.Context, client *queue.Client) error {
			st, err := client.Status(ctx, args[0])
			if err != nil {
				return err
			}
			if *raw {
				return p.printJSON(st)
			}
			return show(p.Out, &st)
		})
	}
	return c.Command
}

func (p *program) itemStatus(c *asking, args []string, raw bool) error {
	ids, err := parseIDs(args[1:])
	if err != nil {
		return err
	}
	return c.ask(shortPatience, func(ctx context.Context, client *queue.Client) error {
		st, err := client.Item(ctx, args[0], ids[0])
		if err != nil {
			return err
		}
		if raw {
			return p.printJSON(st)
		}
		t := newTable(p.Out)
		t.row("Item", st.ID)
		t.row("State", st.State)
		t.row("Stage", st.Stage)
		t.row("Input", inputOf(st.Item))
		t.row("Worker", st.Worker)
		t.row("Progress", fmt.Sprintf("%.0f %%", 100*st.Progress))
		t.row("Failed", st.Failed)
		t.row("Lost", st.Lost)
		t.row("Output", st.Output)
		t.row("Reason", st.Reason)
		if !st.NotBefore.IsZero() {
			t.row("Not before", st.NotBefore.Local().Format(time.DateTime))
		}
		return t.flush()
	})
}

// show writes what is known of a queue.
func show(out io.Writer, st *queue.Overview) error {
	t := newTable(out)
	t.row("Queue", st.Queue)
	t.row("State", stateOf(st))
	t.row("Items", fmt.Sprintf("%d unfinished of %d that were enqueued", st.Items, st.Enqueued))
	t.row("Oldest", age(st.OldestMS))
	t.row("Dead letters", st.Dead)
	if err := t.flush(); err != nil {
		return err
	}
	t.blank()
	t.row("STAGE", "READY", "DELAYED", "WAITING", "IN FLIGHT", "HELD", "DONE", "FAILED", "LOST", "DEAD", "CANCELLED")
	for _, s := range st.Stages {
		t.row(s.Name, s.Ready, s.Delayed, s.Waiting, s.InFlight, s.Held, s.Done, s.Failed, s.Lost, s.Dead, s.Cancelled)
	}
	if err := t.flush(); err != nil {
		return err
	}
	if len(st.Workers) > 0 {
		t.blank()
		t.row("WORKER", "STAGE", "ITEMS", "LEASE LEFT")
		for _, w := range st.Workers {
			t.row(w.Name, w.Stage, w.Items, age(w.LeaseMS))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	t.blank()
	t.row("SHARD", "LEADER", "ERROR")
	for _, sh := range st.Shards {
		t.row(sh.Shard, sh.Leader, sh.Error)
	}
	return t.flush()
}

func (t table) blank() { _, _ = fmt.Fprintln(t.w) } // flush has the error

func (p *program) watch() *agent.Command {
	c := p.asking("watch [flags] <queue>", "Show a queue again and again", `
Shows a queue until it is interrupted: on a terminal the same table as "queue status", kept
up to date, and elsewhere a line for each change.

`+agent.AskHelp)
	every := c.Flags.Duration("interval", time.Second, "`time` between two looks (default 1s)")
	c.Do = func(args []string) error {
		if err := agent.Arguments(args, "a queue"); err != nil {
			return err
		}
		if *every < 50*time.Millisecond {
			return agent.UsageErrorf("-interval: %s is less than 50ms", *every)
		}
		return c.ask(longPatience, func(ctx context.Context, client *queue.Client) error {
			w := watcher{out: p.Out, terminal: isTerminal(p.Out)}
			ticks := time.NewTicker(*every)
			defer ticks.Stop()
			for {
				st, err := client.Status(ctx, args[0])
				if err == nil {
					err = w.show(&st)
				}
				if ctx.Err() != nil {
					return nil // it was interrupted
				}
				if err != nil {
					return err
				}
				select {
				case <-ticks.C:
				case <-ctx.Done():
					return nil
				}
			}
		})
	}
	return c.Command
}

// watcher shows a queue in place of what it showed before.
type watcher struct {
	out      io.Writer
	terminal bool
	lines    int    // that are shown on the terminal
	last     string // line elsewhere
}

func (w *watcher) show(st *queue.Overview) error {
	var b bytes.Buffer
	if w.terminal {
		if w.lines > 0 {
			fmt.Fprintf(&b, "\x1b[%dA\x1b[J", w.lines) // up, and clear what is below
		}
		before := b.Len()
		if err := show(&b, st); err != nil {
			return err
		}
		w.lines = bytes.Count(b.Bytes()[before:], []byte{'\n'})
		_, err := w.out.Write(b.Bytes())
		return err
	}
	line := lineOf(st)
	if line == w.last {
		return nil
	}
	w.last = line
	_, err := fmt.Fprintf(w.out, "%s  %s\n", time.Now().Format("15:04:05.000"), line)
	return err
}

// lineOf is a queue in a line, without what changes all the time.
func lineOf(st *queue.Overview) string {
	text := fmt.Sprintf("%s  items %d  dead %d  workers %d", stateOf(st), st.Items, st.Dead, len(st.Workers))
	for _, s := range st.Stages {
		text += fmt.Sprintf("  %s: ready %d in flight %d done %d", s.Name, s.Ready, s.InFlight, s.Done)
	}
	return text
}

func (p *program) wait() *agent.Command {
	c := p.asking("wait [flags] <queue>", "Wait until all is done", `
Waits until a queue is sealed and nothing in it is left to do; with -state=empty it does not
have to be sealed.

Exit codes: 0 done, 1 bad arguments, 2 the agent was not reached or refused, 3 done, but
there are dead letters, 4 not done within the timeout.`)
	state := c.Flags.String("state", "done", "done or empty: `what` is waited for")
	timeout := c.Flags.Duration("timeout", 0, "`time` to wait (default no limit)")
	quiet := c.Flags.Bool("quiet", false, "show no progress")
	c.Do = func(args []string) error {
		if err := agent.Arguments(args, "a queue"); err != nil {
			return err
		}
		if *state != "done" && *state != "empty" {
			return agent.UsageErrorf("-state: %q is neither done nor empty", *state)
		}
		return c.ask(longPatience, func(ctx context.Context, client *queue.Client) error {
			waiting, cancel := ctx, context.CancelFunc(func() {})
			if *timeout > 0 {
				waiting, cancel = context.WithTimeout(ctx, *timeout)
			}
			defer cancel()
			if isTerminal(p.Err) && !*quiet {
				done := make(chan struct{})
				shown, hide := context.WithCancel(waiting)
				go func() {
					defer close(done)
					follow(shown, client, args[0], p.Err)
				}()
				defer func() { hide(); <-done }()
			}
			err := client.Wait(waiting, args[0], *state == "done")
			if err != nil && ctx.Err() == nil && errors.Is(waiting.Err(), context.DeadlineExceeded) {
				p.Fail(fmt.Errorf("queue %q is not %s within %s", args[0], *state, *timeout))
				return &agent.ExitError{Code: exitTimeout}
			}
			if err != nil {
				return err
			}
			return p.waited(ctx, client, args[0])
		})
	}
	return c.Command
}

// waited says how it has ended.
func (p *program) waited(ctx context.Context, client *queue.Client, name string) error {
	st, err := client.Status(ctx, name)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(p.Out, "%s: done, %s\n", name, plural(st.Dead, "dead letter")); err != nil {
		return err
	}
	if st.Dead > 0 {
		return &agent.ExitError{Code: exitDead}
	}
	return nil
}

// follow shows how much of a queue is done, until the context ends.
func follow(ctx context.Context, client *queue.Client, name string, to io.Writer) {
	var bar *progressbar.ProgressBar
	defer func() { endBar(bar) }()
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	for {
		if st, err := client.Status(ctx, name); err == nil {
			// Items that went through several stages count in each.
			ended := 0
			for _, s := range st.Stages {
				ended += int(s.Done + s.Dead + s.Cancelled) //nolint:gosec // nobody has so many items
			}
			total := max(1, ended+st.Items)
			if bar == nil {
				bar = newBar(to, total, "done")
			}
			bar.ChangeMax(total)
			if ended < total { // a bar that is full has ended
				_ = bar.Set(ended) // it is only to look at
			}
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
	}
}

// stateOf says in a word or two how a queue stands.
func stateOf(st *queue.Overview) string {
	var words []string
	switch {
	case st.Finished:
		words = append(words, "finished")
	case st.Sealed:
		words = append(words, "sealed")
	}
	if st.Paused {
		words = append(words, "paused")
	}
	if !whole(*st) {
		words = append(words, "incomplete")
	}
	if words == nil {
		return "open"
	}
	return strings.Join(words, ",")
}

// whole says whether all shards are counted.
func whole(st queue.Overview) bool {
	for _, sh := range st.Shards {
		if sh.Error != "" {
			return false
		}
	}
	return true
}

// age writes milliseconds.
func age(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case d <= 0:
		return "-"
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}

// inputOf is what an item is about.
func inputOf(raw json.RawMessage) string {
	var it queue.Item
	if json.Unmarshal(raw, &it) != nil {
		return "?"
	}
	if n := len(it.Inputs); n > 1 {
		return fmt.Sprintf("%s and %d more", it.Inputs[0], n-1)
	} else if n == 1 {
		return it.Inputs[0]
	}
	return it.Input
}
