package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
)

// programMode is that of the installed program: images run it as any user.
const programMode = 0o755

func newInstall(p *agent.Program) *agent.Command {
	c := p.Command("install <path>", "Copy this program to a path", `
Copies this program to a file, or into a directory that is there. A prestart task does so to
put it beside a user's image, into the directory that the tasks of an allocation share.
Directories on the way are made. The file appears whole, or not at all.

Exit codes: 0 done, 1 bad arguments, 2 failed.`)
	c.Do = func(args []string) error {
		if err := agent.Arguments(args, "a path"); err != nil {
			return err
		}
		// Not its name, which may be that of another program by now.
		return install("/proc/self/exe", args[0])
	}
	return c
}

// install copies a program. What is at the path is replaced, also while it is being run.
func install(program, to string) (err error) {
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		to = filepath.Join(to, "worker")
	}
	dir := filepath.Dir(to)
	if err := os.MkdirAll(dir, programMode); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	in, err := os.Open(program)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer func() { _ = in.Close() }() // it is read only
	out, err := os.CreateTemp(dir, ".worker-*")
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Chmod(programMode)
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = os.Rename(out.Name(), to)
	}
	if err != nil {
		return fmt.Errorf("install: %w", errors.Join(err, os.Remove(out.Name())))
	}
	return nil
}
