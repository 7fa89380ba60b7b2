package agent

import (
	"context"
	"flag"
	"fmt"
	"io"

	"github.com/hashicorp/go-hclog"
)

// Runner is the command "agent" of an agent with a configuration of type C.
type Runner[C any] struct {
	Text string // what the agent does, for the help
	// Source declares the flags. The function that it returns is called after they
	// have been parsed; its error is a *ConfigError.
	Source func(fs *flag.FlagSet) func() (C, error)
	Log    func(cfg C) LogConfig
	// Valid is what -validate says of a configuration without mistakes.
	Valid func(cfg C) string
	// Run runs the agent until a signal has been obeyed or the context has ended.
	Run func(ctx context.Context, cfg C, log hclog.Logger, reload func(ctx context.Context) (C, error)) error
}

// LogConfig says what is logged, and how.
type LogConfig struct {
	Level hclog.Level
	JSON  bool
}

// Command makes the command.
func (r *Runner[C]) Command(p *Program) *Command {
	c := p.Command("agent [flags]", "Run the agent", r.Text+`

Settings are taken from flags, then from the environment, then from the files.

`+ExitHelp)
	get := r.Source(c.Flags)
	validate := c.Flags.Bool(validateFlag, false, "check the configuration, say what is wrong, and end")
	c.Do = func(rest []string) error {
		if err := Arguments(rest); err != nil {
			return err
		}
		cfg, err := get()
		if err != nil {
			return err
		}
		if *validate {
			_, err := fmt.Fprintln(p.Out, "The configuration is valid: "+r.Valid(cfg)+".")
			return err
		}
		l := r.Log(cfg)
		log := NewLogger(p.Name, l.Level, l.JSON, p.Err)
		return r.Run(context.Background(), cfg, log, func(context.Context) (C, error) { return r.reload(c.given, log) })
	}
	return c
}

const validateFlag = "validate"

// reload reads the configuration again and takes the level of the logs from it.
func (r *Runner[C]) reload(args []string, log hclog.Logger) (cfg C, err error) {
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	get := r.Source(fs)
	fs.Bool(validateFlag, false, "")
	if err := fs.Parse(args); err != nil {
		return cfg, err
	}
	if cfg, err = get(); err != nil {
		return cfg, err
	}
	log.SetLevel(r.Log(cfg).Level)
	return cfg, nil
}
