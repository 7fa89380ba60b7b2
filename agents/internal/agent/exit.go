package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Exit codes of all agents.
const (
	ExitOK         = 0 // ended because it was told to, and drained
	ExitConfig     = 1 // bad flags or configuration; nothing was started
	ExitRuntime    = 2 // could not start or go on
	ExitNotDrained = 3 // ended by a signal, but the drain failed or was cut short
)

// ExitHelp describes the exit codes, for the help of commands.
const ExitHelp = `Exit codes: 0 ended and drained, 1 bad configuration, 2 failed while running,
3 ended without being fully drained (deadline, or a second signal).`

// ErrNotDrained is wrapped by what Run returns when the agent ended without a
// complete drain.
var ErrNotDrained = errors.New("not drained")

// ExitCode is the exit code for what Load, Problems.Err, New or Run returned.
func ExitCode(err error) int {
	var bad *ConfigError
	var usage *UsageError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &bad), errors.As(err, &usage):
		return ExitConfig
	case errors.Is(err, ErrNotDrained):
		return ExitNotDrained
	default:
		return ExitRuntime
	}
}

// ExitError is an exit code that needs no words.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// UsageError says that a command cannot be run with these arguments.
type UsageError struct{ Problem string }

func (e *UsageError) Error() string { return e.Problem }

// UsageErrorf makes a *UsageError.
func UsageErrorf(format string, args ...any) error {
	return &UsageError{Problem: fmt.Sprintf(format, args...)}
}

// ConfigError is everything that is wrong with a configuration, one line each. Each
// line begins with the place, for example "agent.hcl:3:9" or "-ttl".
type ConfigError struct{ Problems []string }

func (e *ConfigError) Error() string { return strings.Join(e.Problems, "\n") }

// Problems collects what is wrong with a configuration.
type Problems struct{ list []string }

// Addf adds a problem. From is the place ([Value].From; "" if the value is a default),
// field the name of the setting; the text says what would be right.
func (p *Problems) Addf(from, field, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if field != "" && "-"+field != from {
		line = field + ": " + line
	}
	if from != "" {
		line = from + ": " + line
	}
	p.list = append(p.list, line)
}

// Add adds the problems of a *ConfigError, or any other error as a problem.
func (p *Problems) Add(err error) {
	var bad *ConfigError
	switch {
	case err == nil:
	case errors.As(err, &bad):
		p.list = append(p.list, bad.Problems...)
	default:
		p.list = append(p.list, err.Error())
	}
}

// Err is nil if there are no problems, and else a *ConfigError.
func (p *Problems) Err() error {
	if len(p.list) == 0 {
		return nil
	}
	return &ConfigError{Problems: slices.Clone(p.list)}
}
