package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/queue/config"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// Exit codes of wait; the other ones are those of package agent.
const (
	exitDead    = 3 // all is done, and there are dead letters
	exitTimeout = 4 // not all is done
)

// Times for which a request is tried again when no broker answers.
const (
	shortPatience = 5 * time.Second
	longPatience  = time.Minute // for what runs unattended
)

// Main runs the command line and returns the exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{Program: &agent.Program{Name: "queue", Out: stdout, Err: stderr}, in: stdin}
	return p.Main(args,
		agentRunner().Command(p.Program),
		p.create(), p.put(), p.ls(), p.status(), p.watch(), p.wait(), p.dead(), p.redrive(), p.recurring(),
		p.flag(queue.Pause, "Hand nothing out", "Makes a queue hand nothing out until \"queue resume\". Work that has begun goes on."),
		p.flag(queue.Resume, "Hand items out again", "Ends a pause."),
		p.flag(queue.Seal, "Accept nothing more", "Makes a queue accept nothing more, for good, so that \"queue wait\" and workers know when all is done."),
		p.purge(), p.cancel(), p.delete(),
		p.VersionCommand(),
	)
}

// program has the commands.
type program struct {
	*agent.Program
	in io.Reader
}

// asking is a command that asks an agent.
type asking struct {
	*agent.Command
	p     *program
	where agent.ClientFlags
}

// asking makes a command with the flags that say where the agent is.
func (p *program) asking(usage, synopsis, text string) *asking {
	c := &asking{Command: p.Command(usage, synopsis, text), p: p}
	c.where.Declare(c.Flags, "queue", config.DefaultListen)
	return c
}

// ask calls f with a client, until a signal comes.
func (c *asking) ask(patience time.Duration, f func(ctx context.Context, client *queue.Client) error) error {
	target, err := c.where.Target()
	if err != nil {
		return err
	}
	transport := agent.ClientTransport(target.TLS)
	defer transport.CloseIdleConnections()
	client, err := queue.NewClient(queue.ClientConfig{
		Addresses: []string{target.Address}, Token: target.Token, Transport: transport, Patience: patience,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := agent.UntilSignal()
	defer cancel()
	err = f(ctx, client)
	var unreached *url.Error
	var input *inputError
	if errors.As(err, &unreached) && !errors.As(err, &input) && ctx.Err() == nil {
		return fmt.Errorf("ask the agent (is it running at %s?): %w", target.Address, err)
	}
	return err
}

// inputError is a mistake in what is put. The agent has nothing to do with it.
type inputError struct{ error }

func (e *inputError) Unwrap() error { return e.error }

// simple is a command about one queue that needs one request, and says what it has done.
func (p *program) simple(usage, synopsis, text string, do func(ctx context.Context, c *queue.Client, name string) (string, error)) *agent.Command {
	c := p.asking(usage, synopsis, text+"\n\n"+agent.AskHelp)
	c.Do = func(args []string) error {
		if err := agent.Arguments(args, "a queue"); err != nil {
			return err
		}
		return c.ask(shortPatience, func(ctx context.Context, client *queue.Client) error {
			done, err := do(ctx, client, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(p.Out, "%s: %s\n", args[0], done)
			return err
		})
	}
	return c.Command
}

// printJSON writes a value for programs.
func (p *program) printJSON(value any) error {
	e := json.NewEncoder(p.Out)
	e.SetEscapeHTML(false)
	return e.Encode(value)
}

// table writes rows of cells.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer) table { return table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)} }

func (t table) row(cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		if text[i] = fmt.Sprint(c); text[i] == "" {
			text[i] = "-"
		}
		// What comes from items must not move the cursor, nor make rows and cells.
		text[i] = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
				return '?'
			}
			return r
		}, text[i])
	}
	_, _ = fmt.Fprintln(t.w, strings.Join(text, "\t")) // flush has the error
}

func (t table) flush() error { return t.w.Flush() }

// isTerminal says whether people see at once what is written.
func isTerminal(w io.Writer) bool {
	f, is := w.(*os.File)
	return is && term.IsTerminal(int(f.Fd()))
}

// plural counts things.
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
