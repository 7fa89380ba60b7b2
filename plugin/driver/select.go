package driver

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/drivers/exec"
	"github.com/hashicorp/nomad/drivers/rawexec"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// Factory makes an inner driver.
type Factory func(ctx context.Context, logger hclog.Logger) drivers.DriverPlugin

const namePrefix = "lifecycle-"

func factory(inner string) (Factory, bool) {
	switch inner {
	case "docker":
		return docker.NewDockerDriver, true
	case "exec":
		return exec.NewExecDriver, true
	case "raw_exec":
		return rawexec.NewRawExecDriver, true
	}
	return nil, false
}

// Select reads the plugin's command line: which driver to decorate, and under
// which name. Capabilities and schemas belong to a whole plugin process, so
// there is one process for each inner driver.
//
// The inner driver is named by -inner, or else by the file name, which Nomad
// takes from plugin_dir. -as gives the driver another name than
// "lifecycle-<inner>"; with a built-in driver's name the plugin replaces that
// driver.
func Select(argv []string) (Factory, string, error) {
	if len(argv) == 0 {
		return nil, "", errors.New("no command line")
	}
	flags := flag.NewFlagSet("nomad-driver-lifecycle", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	byName := strings.TrimPrefix(filepath.Base(argv[0]), namePrefix)
	inner := flags.String("inner", byName, "driver to decorate: docker, exec or raw_exec")
	as := flags.String("as", "", "driver name to serve")
	if err := flags.Parse(argv[1:]); err != nil {
		return nil, "", err
	}
	if flags.NArg() > 0 {
		return nil, "", fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	f, ok := factory(*inner)
	if !ok {
		if *inner == byName {
			return nil, "", fmt.Errorf("which driver to decorate? name the file in plugin_dir lifecycle-docker, lifecycle-exec or lifecycle-raw_exec, or set args = [\"-inner=docker\"] in the plugin block")
		}
		return nil, "", fmt.Errorf("-inner=%s: not one of docker, exec, raw_exec", *inner)
	}
	own := namePrefix + *inner
	switch *as {
	case "":
		return f, own, nil
	case *inner, own:
		return f, *as, nil
	}
	return nil, "", fmt.Errorf("-as=%s: not one of %s", *as, strings.Join(slices.Sorted(slices.Values([]string{*inner, own})), ", "))
}
