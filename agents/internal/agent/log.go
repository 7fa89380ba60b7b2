package agent

import (
	"fmt"
	"io"

	"github.com/hashicorp/go-hclog"
)

// NewLogger makes the logger of an agent.
func NewLogger(name string, level hclog.Level, json bool, to io.Writer) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name:       name,
		Level:      level,
		JSONFormat: json,
		Output:     to,
		TimeFormat: "2006-01-02T15:04:05.000Z07:00",
	})
}

// ParseLevel reads a level of logs, in upper or lower case; "" is info.
func ParseLevel(s string) (hclog.Level, error) {
	if s == "" {
		return hclog.Info, nil
	}
	if l := hclog.LevelFromString(s); l != hclog.NoLevel {
		return l, nil
	}
	return hclog.NoLevel, fmt.Errorf("%q is not one of trace, debug, info, warn, error and off", s)
}
