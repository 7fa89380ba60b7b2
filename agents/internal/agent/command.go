package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/hashicorp/cli"
)

// AskHelp describes the exit codes of commands that ask an agent.
const AskHelp = `Exit codes: 0 done, 1 bad arguments, 2 the agent was not reached or refused.`

// Program is a command line that consists of several commands.
type Program struct {
	Name     string
	Out, Err io.Writer
}

// Main runs one of the commands and returns the exit code.
func (p *Program) Main(args []string, commands ...*Command) int {
	c := &cli.CLI{
		Name: p.Name, Version: Version(), Args: args, Commands: map[string]cli.CommandFactory{},
		HelpFunc: cli.BasicHelpFunc(p.Name), HelpWriter: p.Out, ErrorWriter: p.Err,
	}
	for _, command := range commands {
		c.Commands[command.Flags.Name()] = func() (cli.Command, error) { return command, nil }
	}
	code, err := c.Run()
	if err != nil {
		p.Fail(err)
		return ExitConfig
	}
	return code
}

// Fail shows an error. A line that begins with a place stays so.
func (p *Program) Fail(err error) {
	text := err.Error()
	var bad *ConfigError
	if !errors.As(err, &bad) {
		text = p.Name + ": " + text
	}
	_, _ = fmt.Fprintln(p.Err, text) // nothing is left to be told by
}

// Version is that of the module, as the build has recorded it.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}

// VersionCommand makes the command that shows the version.
func (p *Program) VersionCommand() *Command {
	c := p.Command("version", "Show the version", "Shows the version of this program.")
	c.Do = func(args []string) error {
		if err := Arguments(args); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.Out, p.Name, Version())
		return err
	}
	return c
}

// Command is one command of a Program. It implements the interface of package cli.
type Command struct {
	Flags *flag.FlagSet
	// Do is called with what is left after the flags. It is set before Main.
	Do func(args []string) error

	program  *Program
	synopsis string
	usage    string   // the line after the program's name
	text     string   // what it does, and its exit codes
	given    []string // to Run
}

// Command makes a command, whose Do is to be set. Its name is the first word of the
// usage. Its exit code is ExitCode's for what Do returns.
func (p *Program) Command(usage, synopsis, text string) *Command {
	name, _, _ := strings.Cut(usage, " ")
	c := &Command{
		program: p, usage: usage, synopsis: synopsis, text: text,
		Flags: flag.NewFlagSet(name, flag.ContinueOnError),
	}
	c.Flags.SetOutput(io.Discard) // errors are shown below
	return c
}

// Synopsis is the command in the list of commands.
func (c *Command) Synopsis() string { return c.synopsis }

// Help lists the flags in alphabetical order.
func (c *Command) Help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s %s\n\n%s\n", c.program.Name, c.usage, strings.TrimSpace(c.text))
	titled := false
	c.Flags.VisitAll(func(f *flag.Flag) {
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
func (c *Command) Run(args []string) int {
	c.given = args
	err := c.Flags.Parse(args)
	if err != nil {
		err = UsageErrorf("%v; see %s %s -help", err, c.program.Name, c.Flags.Name())
	} else {
		err = c.Do(c.Flags.Args())
	}
	var silent *ExitError
	if errors.As(err, &silent) {
		return silent.Code
	}
	if err != nil {
		c.program.Fail(err)
	}
	return ExitCode(err)
}

// IsGiven says whether a flag was given, be it with its default.
func (c *Command) IsGiven(name string) bool {
	given := false
	c.Flags.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}

// Arguments checks the number of arguments; names are theirs. The error is a
// *UsageError.
func Arguments(args []string, names ...string) error {
	if len(args) == len(names) {
		return nil
	}
	if err := flagsFirst(args); err != nil {
		return err
	}
	if len(names) == 0 {
		return UsageErrorf("there are no arguments, but %d were given", len(args))
	}
	return UsageErrorf("give %s, and nothing else", strings.Join(names, " and "))
}

// ArgumentsFrom is Arguments for commands that take more of the last one.
func ArgumentsFrom(args []string, names ...string) error {
	if len(args) >= len(names) {
		return flagsFirst(args)
	}
	return UsageErrorf("give %s", strings.Join(names, " and "))
}

// flagsFirst finds a frequent mistake: flags after arguments are not read. A dash alone
// is no flag.
func flagsFirst(args []string) error {
	i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "-") && a != "-" })
	if i <= 0 {
		return nil
	}
	return UsageErrorf("flags have to come before %q: %s", args[0], args[i])
}

// UntilSignal is a context that ends at the first SIGINT or SIGTERM; the second ends
// the process.
func UntilSignal() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
