package agent

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
)

// program is a command line with a command "echo" and an agent.
func program(out, err io.Writer) []*Command {
	p := &Program{Name: "prog", Out: out, Err: err}
	echo := p.Command("echo [flags] <word>", "Say a word", "Says it.\n\n"+AskHelp)
	loud := echo.Flags.Bool("loud", false, "say it with a mark")
	fail := echo.Flags.Int("code", 0, "end with `number`")
	echo.Do = func(args []string) error {
		if err := Arguments(args, "a word"); err != nil {
			return err
		}
		if *fail > 0 {
			return &ExitError{*fail}
		}
		if *loud || echo.IsGiven("loud") {
			args[0] += "!"
		}
		_, err := io.WriteString(out, args[0]+"\n")
		return err
	}
	many := p.Command("many <word>…", "Take words", "Takes them.")
	many.Do = func(args []string) error { return ArgumentsFrom(args, "a word") }
	return []*Command{echo, many, p.VersionCommand(), levels(io.Discard).Command(p)}
}

// levels is an agent whose configuration is the level of its logs.
func levels(seen io.Writer) *Runner[hclog.Level] {
	return &Runner[hclog.Level]{
		Text: "Does nothing.",
		Source: func(fs *flag.FlagSet) func() (hclog.Level, error) {
			var level struct {
				Level Value[string] `hcl:"level,optional"`
			}
			var files Value[[]string]
			files.Flag(fs, "config", "`file`")
			return func() (hclog.Level, error) {
				if err := Load(files.V, &level); err != nil {
					return 0, err
				}
				return ParseLevel(level.Level.V)
			}
		},
		Log:   func(l hclog.Level) LogConfig { return LogConfig{Level: l} },
		Valid: func(l hclog.Level) string { return "level " + l.String() },
		Run: func(ctx context.Context, _ hclog.Level, _ hclog.Logger, reload func(context.Context) (hclog.Level, error)) error {
			l, err := reload(ctx)
			_, _ = io.WriteString(seen, l.String())
			return err
		},
	}
}

func TestProgram(t *testing.T) {
	for name, c := range map[string]struct {
		args     []string
		code     int
		out, err string
	}{
		"done":              {[]string{"echo", "a"}, 0, "a\n", ""},
		"flag":              {[]string{"echo", "-loud", "a"}, 0, "a!\n", ""},
		"flag as default":   {[]string{"echo", "-loud=false", "a"}, 0, "a!\n", ""},
		"own code":          {[]string{"echo", "-code=7", "a"}, 7, "", ""},
		"too few":           {[]string{"echo"}, 1, "", "prog: give a word, and nothing else\n"},
		"flag behind":       {[]string{"echo", "a", "-loud"}, 1, "", "prog: flags have to come before \"a\": -loud\n"},
		"unknown flag":      {[]string{"echo", "-x"}, 1, "", "prog: flag provided but not defined: -x; see prog echo -help\n"},
		"at least one":      {[]string{"many"}, 1, "", "prog: give a word\n"},
		"several":           {[]string{"many", "a", "b", "-"}, 0, "", ""},
		"several, and flag": {[]string{"many", "a", "-b"}, 1, "", "prog: flags have to come before \"a\": -b\n"},
		"version":           {[]string{"version"}, 0, "prog " + Version() + "\n", ""},
		"validate":          {[]string{"agent", "-validate"}, 0, "The configuration is valid: level info.\n", ""},
		"agent, arguments":  {[]string{"agent", "x"}, 1, "", "prog: there are no arguments, but 1 were given\n"},
		"help": {[]string{"echo", "-help"}, 0, `Usage: prog echo [flags] <word>

Says it.

Exit codes: 0 done, 1 bad arguments, 2 the agent was not reached or refused.

Flags:

  -code=<number>
      end with number

  -loud
      say it with a mark
`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out, err bytes.Buffer
			p := &Program{Name: "prog", Out: &out, Err: &err}
			must.Eq(t, c.code, p.Main(c.args, program(&out, &err)...))
			must.Eq(t, c.err, err.String())
			must.StrHasPrefix(t, c.out, out.String())
		})
	}
}

func TestReloadOfRunner(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.hcl")
	must.NoError(t, os.WriteFile(file, []byte(`level = "debug"`), 0o600))
	var seen bytes.Buffer
	p := &Program{Name: "prog", Out: io.Discard, Err: io.Discard}
	r := levels(&seen)
	must.Eq(t, 0, p.Main([]string{"agent", "-config", file}, r.Command(p)))
	must.Eq(t, "debug", seen.String())

	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Info, Output: io.Discard})
	_, err := r.reload([]string{"-config", file}, log)
	must.NoError(t, err)
	must.Eq(t, hclog.Debug, log.GetLevel())
	must.NoError(t, os.WriteFile(file, []byte(`levl = "warn"`), 0o600))
	_, err = r.reload([]string{"-config", file}, log)
	must.ErrorContains(t, err, "a.hcl:1:1: Unsupported argument")
	must.Eq(t, hclog.Debug, log.GetLevel())
}
