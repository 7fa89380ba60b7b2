package driver

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/drivers/exec"
	"github.com/hashicorp/nomad/drivers/rawexec"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-patterns/nomad-patterns/plugin/child"
)

// Factory makes an inner driver.
type Factory func(ctx context.Context, logger hclog.Logger) (drivers.DriverPlugin, error)

const namePrefix = "lifecycle-"

func factory(inner string) (Factory, bool) {
	builtIn := func(create func(context.Context, hclog.Logger) drivers.DriverPlugin) Factory {
		return func(ctx context.Context, logger hclog.Logger) (drivers.DriverPlugin, error) {
			return create(ctx, logger), nil
		}
	}
	switch inner {
	case "docker":
		return builtIn(docker.NewDockerDriver), true
	case "exec":
		return builtIn(exec.NewExecDriver), true
	case "raw_exec":
		return builtIn(rawexec.NewRawExecDriver), true
	}
	return nil, false
}

// Selection is what the plugin's command line asks for.
type Selection struct {
	inner Factory
	name  string // of the inner driver; "" for a binary, which says it itself
	as    string // "" for the usual name
}

// Select reads the plugin's command line: which driver to decorate, and under
// which name. Capabilities and schemas belong to a whole plugin process, so
// there is one process for each inner driver.
//
// The inner driver is named by -inner, or else by the file name, which Nomad
// takes from plugin_dir; or it is any driver plugin, whose binary -inner-plugin
// names. -as gives the driver another name than "lifecycle-<inner>"; with a
// built-in driver's name the plugin replaces that driver.
func Select(argv []string) (*Selection, error) {
	if len(argv) == 0 {
		return nil, errors.New("no command line")
	}
	flags := flag.NewFlagSet("nomad-driver-lifecycle", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	byName := strings.TrimPrefix(filepath.Base(argv[0]), namePrefix)
	inner := flags.String("inner", "", "driver to decorate: docker, exec or raw_exec; default by the file's name")
	binary := flags.String("inner-plugin", "", "binary of a driver plugin to decorate, an absolute path")
	as := flags.String("as", "", "driver name to serve")
	if err := flags.Parse(argv[1:]); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	s := &Selection{as: *as, name: *inner}
	switch {
	case *binary != "" && *inner != "":
		return nil, errors.New("-inner and -inner-plugin exclude each other")
	case *binary != "":
		s.inner = func(ctx context.Context, logger hclog.Logger) (drivers.DriverPlugin, error) {
			return child.New(ctx, *binary, nil, logger)
		}
		return s, nil
	case *inner == "":
		s.name = byName
	}
	var ok bool
	if s.inner, ok = factory(s.name); !ok {
		if *inner == "" {
			return nil, fmt.Errorf("which driver to decorate? name the file in plugin_dir lifecycle-docker, lifecycle-exec or lifecycle-raw_exec, or set args = [\"-inner=docker\"] or [\"-inner-plugin=/path/of/a/driver\"] in the plugin block")
		}
		return nil, fmt.Errorf("-inner=%s: not one of docker, exec, raw_exec", *inner)
	}
	if _, err := s.served(s.name); err != nil {
		return nil, err
	}
	return s, nil
}

// served is the name under which a driver of this name is served.
func (s *Selection) served(inner string) (string, error) {
	switch s.as {
	case "":
		return namePrefix + inner, nil
	case inner, namePrefix + inner:
		return s.as, nil
	}
	return "", fmt.Errorf("-as=%s: not one of %s, %s", s.as, namePrefix+inner, inner)
}

// Open makes the inner driver and decorates it.
func (s *Selection) Open(ctx context.Context, logger hclog.Logger) (*Driver, error) {
	inner, err := s.inner(ctx, logger)
	if err != nil {
		return nil, err
	}
	info, err := inner.PluginInfo()
	if err != nil {
		return nil, fmt.Errorf("ask the inner driver its name: %w", err)
	}
	name, err := s.served(info.Name)
	if err != nil {
		return nil, err
	}
	return New(ctx, name, inner, logger), nil
}

// Close ends an inner driver that is a process of its own. Tasks go on.
func (d *Driver) Close() {
	if c, ok := d.inner.(interface{ Close() }); ok {
		c.Close()
	}
}
