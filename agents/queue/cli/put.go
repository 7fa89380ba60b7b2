package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/queue/source"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

func (p *program) put() *agent.Command {
	c := p.asking("put [flags] <queue> <input>…", "Add items", `
Adds an item for each input. An input is

  a file                      its absolute path
  a directory                 all files below it
  'docs/*.md'                 what the pattern matches
  -                           each line of the standard input, as it is
  s3://bucket/prefix?region=… all objects whose names begin so, and the same for the other
                              blob URLs of gocloud.dev that this program knows

The key of an item is its input, unless -key says otherwise: to repeat a put adds nothing
twice, as long as the first items are unfinished or remembered. If put fails in the
middle, repeat it.

Exit codes: 0 all were added, 1 bad arguments, 2 an input could not be read, or the agent
was not reached or refused; some may have been added.`)
	stage := c.Flags.String("stage", "", "`name` of the stage in which they begin (default the first)")
	priority := c.Flags.Int("priority", 0, "`number` from 0 to 9; higher ones are handed out first")
	group := c.Flags.String("group", "", "`name` of a group, whose items are worked on one after the other")
	key := c.Flags.String("key", inputMark, "`text` in which "+inputMark+" stands for the input; empty: none, and a repeated put adds them twice")
	notBefore := c.Flags.Duration("delay", 0, "`time` before they are handed out")
	var attrs agent.Value[map[string]string]
	attrs.Flag(c.Flags, "attr", "`key=value` that workers are told; may be given several times")
	quiet := c.Flags.Bool("quiet", false, "show no progress")
	c.Do = func(args []string) error {
		if err := agent.ArgumentsFrom(args, "a queue", "an input"); err != nil {
			return err
		}
		model := queue.Item{Stage: *stage, Priority: *priority, Group: *group, Attrs: attrs.V}
		if *notBefore > 0 {
			model.NotBefore = time.Now().Add(*notBefore).UTC()
		}
		return c.ask(longPatience, func(ctx context.Context, client *queue.Client) error {
			b := &batcher{ctx: ctx, client: client, queue: args[0], model: model, key: *key}
			if isTerminal(p.Err) && !*quiet {
				b.show = p.Err
			}
			err := b.all(args[1:], p.in)
			b.finish()
			if b.stored > 0 || err == nil {
				text := args[0] + ": " + plural(b.stored, "item") + " added"
				if b.twice > 0 {
					text += fmt.Sprintf(", %d were there already", b.twice)
				}
				if _, werr := fmt.Fprintln(p.Out, text); err == nil {
					err = werr
				}
			}
			return err
		})
	}
	return c.Command
}

// inputMark stands for the input in -key.
const inputMark = "{input}"

// batcher sends items in batches.
type batcher struct {
	ctx    context.Context
	client *queue.Client
	queue  string
	model  queue.Item
	key    string
	show   io.Writer // where the bar is shown; nil: nowhere
	bar    *progressbar.ProgressBar

	batch         []queue.Item
	bytes         int
	stored, twice int
}

// all adds all inputs. Those of arguments are found before the first is added, so that an
// argument that is wrong does not leave half of them behind; lines are not kept.
func (b *batcher) all(args []string, stdin io.Reader) error {
	var found []string
	lines := false
	for _, arg := range args {
		if arg == source.Stdin {
			lines = true
			continue
		}
		if err := source.List(b.ctx, arg, nil, func(input string) error {
			found = append(found, input)
			return nil
		}); err != nil {
			return &inputError{err}
		}
	}
	switch {
	case b.show == nil:
	case lines:
		b.bar = newBar(b.show, -1, "adding") // nobody knows how many
	default:
		b.bar = newBar(b.show, len(found), "adding")
	}
	for _, input := range found {
		if err := b.add(input); err != nil {
			return err
		}
	}
	if lines {
		if err := source.List(b.ctx, source.Stdin, stdin, b.add); err != nil {
			return err
		}
	}
	return b.flush()
}

// add adds one input to the batch, and sends that when it is full.
func (b *batcher) add(input string) error {
	it := b.model
	it.Input = input
	it.Key = strings.ReplaceAll(b.key, inputMark, input)
	raw, err := json.Marshal(it)
	if err != nil {
		return err
	}
	size := len(raw) + 1
	if len(b.batch) == queue.MaxBatch || b.bytes+size > queue.MaxBatchBytes {
		if err := b.flush(); err != nil {
			return err
		}
	}
	b.batch, b.bytes = append(b.batch, it), b.bytes+size
	return nil
}

func (b *batcher) flush() error {
	if len(b.batch) == 0 {
		return nil
	}
	out, err := b.client.Enqueue(b.ctx, b.queue, b.batch)
	if err != nil {
		return fmt.Errorf("items from %q to %q: %w", b.batch[0].Input, b.batch[len(b.batch)-1].Input, err)
	}
	for _, e := range out {
		if e.Duplicate {
			b.twice++
		} else {
			b.stored++
		}
	}
	if b.bar != nil {
		_ = b.bar.Add(len(b.batch)) // it is only to look at
	}
	b.batch, b.bytes = b.batch[:0], 0
	return nil
}

func (b *batcher) finish() { endBar(b.bar) }

// endBar ends the line of a bar that was not filled.
func endBar(bar *progressbar.ProgressBar) {
	if bar != nil && !bar.IsFinished() {
		_ = bar.Exit() // it is only to look at
	}
}

// newBar makes a progress bar. Without a total it only counts.
func newBar(to io.Writer, total int, what string) *progressbar.ProgressBar {
	return progressbar.NewOptions(total,
		progressbar.OptionSetWriter(to), progressbar.OptionSetDescription(what), progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetWidth(30), progressbar.OptionSetPredictTime(true), progressbar.OptionUseANSICodes(true),
		progressbar.OptionSetSpinnerChangeInterval(0), // no goroutine of its own
		progressbar.OptionOnCompletion(func() { _, _ = fmt.Fprintln(to) }),
	)
}
