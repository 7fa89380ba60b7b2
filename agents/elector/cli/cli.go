package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/hashicorp/cli"

	"github.com/nomad-patterns/nomad-patterns/agents/elector/runner"
	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
)

// Exit codes of the commands that ask an agent, besides those of package agent.
const (
	exitUsage   = agent.ExitConfig // bad arguments
	exitNotSelf = 4                // status -self: somebody else leads, or nobody
)

// askHelp describes them.
const askHelp = `Exit codes: 0 done, 1 bad arguments, 2 the agent was not reached or refused.`

// Main runs the command line and returns the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == runner.GuardCommand {
		return runner.Guard(args[1:]) // "elector run" starts it; not for people
	}
	s := streams{stdout, stderr}
	c := &cli.CLI{
		Name: "elector", Version: version(), Args: args,
		Commands: map[string]cli.CommandFactory{
			"agent":     factory(newAgent(s)),
			"run":       factory(newRun(s)),
			"status":    factory(newStatus(s)),
			"watch":     factory(newWatch(s)),
			"resign":    factory(newResign(s)),
			"hand-over": factory(newHandOver(s)),
			"version":   factory(newVersion(s)),
		},
		HelpFunc: cli.BasicHelpFunc("elector"), HelpWriter: stdout, ErrorWriter: stderr,
	}
	code, err := c.Run()
	if err != nil {
		s.fail(err)
		return exitUsage
	}
	return code
}

func factory(c cli.Command) cli.CommandFactory {
	return func() (cli.Command, error) { return c, nil }
}

// streams is where a command writes.
type streams struct{ out, err io.Writer }

// fail shows an error. A line that begins with a place stays so.
func (s streams) fail(err error) {
	text := err.Error()
	var bad *agent.ConfigError
	if !errors.As(err, &bad) {
		text = "elector: " + text
	}
	_, _ = fmt.Fprintln(s.err, text) // nothing is left to be told by
}

// command is what all commands have in common.
type command struct {
	streams
	synopsis string
	usage    string // the line after "elector"
	text     string // what it does, and its exit codes
	flags    *flag.FlagSet
	run      func(args []string) error // with what is left after the flags
	code     func(error) int
}

// newCommand makes a command whose exit code is 1 for an *agent.ConfigError and 2 for
// other errors.
func newCommand(s streams, usage, synopsis, text string) *command {
	name, _, _ := strings.Cut(usage, " ")
	c := &command{
		streams: s, usage: usage, synopsis: synopsis, text: text,
		flags: flag.NewFlagSet(name, flag.ContinueOnError), code: agent.ExitCode,
	}
	c.flags.SetOutput(io.Discard) // errors are shown below
	return c
}

func (c *command) Synopsis() string { return c.synopsis }

// Help lists the flags in alphabetical order.
func (c *command) Help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: elector %s\n\n%s\n", c.usage, strings.TrimSpace(c.text))
	titled := false
	c.flags.VisitAll(func(f *flag.Flag) {
		if !titled {
			b.WriteString("\nFlags:\n")
			titled = true
		}
		value, text := flag.UnquoteUsage(f)
		if boolean, is := f.Value.(interface{ IsBoolFlag() bool }); is && boolean.IsBoolFlag() {
			fmt.Fprintf(&b, "\n  -%s\n", f.Name)
		} else {
			fmt.Fprintf(&b, "\n  -%s=<%s>\n", f.Name, value)
		}
		fmt.Fprintf(&b, "      %s\n", text)
	})
	return b.String()
}

// Run parses the flags and runs the command.
func (c *command) Run(args []string) int {
	err := c.flags.Parse(args)
	if err != nil {
		err = usageError("%v; see elector %s -help", err, c.flags.Name())
	} else {
		err = c.run(c.flags.Args())
	}
	var silent *exitError
	if err != nil && !errors.As(err, &silent) {
		c.fail(err)
	}
	if silent != nil {
		return silent.code
	}
	return c.code(err)
}

// exitError is an exit code that needs no words.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func usageError(format string, args ...any) error {
	return &agent.ConfigError{Problems: []string{"elector: " + fmt.Sprintf(format, args...)}}
}

// arguments checks the number of arguments; names are theirs.
func arguments(args []string, names ...string) error {
	if len(args) == len(names) {
		return nil
	}
	// A frequent mistake: flags after arguments are not read.
	if i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "-") }); i > 0 {
		return usageError("flags have to come before %q: %s", args[0], args[i])
	}
	if len(names) == 0 {
		return usageError("there are no arguments, but %d were given", len(args))
	}
	return usageError("give %s, and nothing else", strings.Join(names, " and "))
}

// version is that of the module, as the build has recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}

func newVersion(s streams) cli.Command {
	c := newCommand(s, "version", "Show the version", "Shows the version of this program.")
	c.run = func(args []string) error {
		if err := arguments(args); err != nil {
			return err
		}
		_, err := fmt.Fprintln(s.out, "elector", version())
		return err
	}
	return c
}

// isGiven says whether a flag was given, be it with its default.
func isGiven(fs *flag.FlagSet, name string) bool {
	given := false
	fs.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}
