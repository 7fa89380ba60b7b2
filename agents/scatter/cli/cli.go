package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/config"
)

// exitPartial is the exit code of query for an answer in which something is missing. The
// other ones are those of package agent.
const exitPartial = 3

// Main runs the command line and returns the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	p := &agent.Program{Name: "scatter", Out: stdout, Err: stderr}
	return p.Main(args,
		agentRunner().Command(p),
		newStatus(p), newQuery(p),
		p.VersionCommand(),
	)
}

// declare declares the flags that say where the agent is.
func declare(c *agent.Command) *agent.ClientFlags {
	f := &agent.ClientFlags{}
	f.Declare(c.Flags, "scatter", config.DefaultListen)
	return f
}

// table writes rows of cells.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer) table { return table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)} }

func (t table) row(cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		if text[i] = printable(fmt.Sprint(c)); text[i] == "" {
			text[i] = "-"
		}
	}
	_, _ = fmt.Fprintln(t.w, strings.Join(text, "\t")) // flush has the error
}

func (t table) flush() error { return t.w.Flush() }

// printable is a text from elsewhere that does not move the cursor, nor makes rows and
// cells.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

// plural counts things.
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
