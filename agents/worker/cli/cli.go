package cli

import (
	"io"
	"slices"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
)

// Main runs the command line and returns the exit code. "worker -flag… -- command" is
// short for "worker run -flag… -- command".
func Main(args []string, stdout, stderr io.Writer) int {
	p := &agent.Program{Name: "worker", Out: stdout, Err: stderr}
	help := []string{"-h", "-help", "--help", "-v", "-version", "--version"}
	if len(args) > 0 && args[0] != "" && args[0][0] == '-' && !slices.Contains(help, args[0]) {
		args = append([]string{"run"}, args...)
	}
	return p.Main(args, newRun(p), newPublish(p), newInstall(p), p.VersionCommand())
}
