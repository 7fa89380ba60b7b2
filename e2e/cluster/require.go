package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Package is a Debian package that something here needs to run.
type Package struct {
	// Name as apt knows it.
	Name string
	// Probe is a file that shows that the package is there, however it came.
	Probe string
}

// Nginx is a web server, of which the smallest flavour is enough.
func Nginx() Package { return Package{Name: "nginx-light", Probe: "/usr/sbin/nginx"} }

// Busybox is a static program for images made with BuildImage.
func Busybox() Package { return Package{Name: "busybox-static", Probe: "/bin/busybox"} }

// Curl speaks HTTP over unix sockets, which busybox cannot.
func Curl() Package { return Package{Name: "curl", Probe: "/usr/bin/curl"} }

// CNIPlugins are what Nomad's bridge networks need, beside Iptables.
func CNIPlugins() Package {
	return Package{Name: "containernetworking-plugins", Probe: "/usr/lib/cni/bridge"}
}

// Iptables is what the CNI plugins call.
func Iptables() Package { return Package{Name: "iptables", Probe: "/usr/sbin/iptables"} }

// Memcached is a cache server.
func Memcached() Package { return Package{Name: "memcached", Probe: "/usr/bin/memcached"} }

// Redis is a store, on which one of the queues runs that ours is compared with.
func Redis() Package { return Package{Name: "redis-server", Probe: "/usr/bin/redis-server"} }

// Beanstalkd is another queue that ours is compared with.
func Beanstalkd() Package { return Package{Name: "beanstalkd", Probe: "/usr/bin/beanstalkd"} }

// Docker is an engine. Its service has to be started by hand after the
// installation.
func Docker() Package { return Package{Name: "docker.io", Probe: "/usr/bin/dockerd"} }

// aptTimeout bounds one run of apt-get.
const aptTimeout = 5 * time.Minute

// Require makes sure that the packages are installed. As root on a Debian
// system it installs what is missing, without starting any of its services
// (where systemd runs, Debian still enables them for the next boot); otherwise
// the error names the command to run.
func Require(ctx context.Context, progress io.Writer, packages ...Package) error {
	missing, err := missingOf(packages)
	if err != nil || len(missing) == 0 {
		return err
	}
	if progress == nil {
		progress = io.Discard
	}
	names := strings.Join(missing, " ")
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("missing: %s; on Debian run: sudo apt-get install --no-install-recommends %s", names, names)
	}
	unlock, err := lockFile(filepath.Join(os.TempDir(), "nomad-patterns-apt.lock"))
	if err != nil {
		return fmt.Errorf("install %s: %w", names, err)
	}
	defer unlock()
	if missing, err = missingOf(packages); err != nil || len(missing) == 0 {
		return err // somebody else has installed them meanwhile
	}
	say(progress, "installing %s", names)
	if err := aptInstall(ctx, apt, missing); err != nil {
		// The lists of a fresh image are empty or old.
		say(progress, "updating the package lists")
		if uerr := runApt(ctx, apt, "update", "-q"); uerr != nil {
			return fmt.Errorf("install %s: %w", names, errors.Join(err, uerr))
		}
		if err := aptInstall(ctx, apt, missing); err != nil {
			return fmt.Errorf("install %s: %w", names, err)
		}
	}
	if missing, err = missingOf(packages); err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("still missing after the installation: %s", strings.Join(missing, " "))
	}
	return nil
}

// missingOf lists the names of the packages whose probe does not exist.
func missingOf(packages []Package) ([]string, error) {
	var missing []string
	for _, p := range packages {
		switch _, err := os.Stat(p.Probe); {
		case err == nil:
		case os.IsNotExist(err):
			missing = append(missing, p.Name)
		default:
			return nil, fmt.Errorf("look for package %s: %w", p.Name, err)
		}
	}
	return missing, nil
}

const (
	// policyFile is what Debian's package scripts ask before they start a
	// service, and policyText is the answer that forbids it.
	policyFile = "/usr/sbin/policy-rc.d"
	policyText = "#!/bin/sh\n# Made by nomad-patterns while it installs packages.\nexit 101\n"
)

// aptInstall installs packages without starting their services: for the time
// of the installation the policy of the machine forbids it, unless the machine
// has a policy of its own, which then decides.
func aptInstall(ctx context.Context, apt string, names []string) (err error) {
	old, err := os.ReadFile(policyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && string(old) == policyText: // ours was left by a crash
		defer func() { err = errors.Join(err, os.Remove(policyFile)) }()
		if err := os.WriteFile(policyFile, []byte(policyText), 0o755); err != nil {
			return fmt.Errorf("forbid the start of services: %w", err)
		}
	case err != nil:
		return fmt.Errorf("forbid the start of services: %w", err)
	}
	return runApt(ctx, apt, append([]string{"install", "-q", "-y", "--no-install-recommends"}, names...)...)
}

// runApt runs apt-get without questions.
func runApt(ctx context.Context, apt string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, aptTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, apt, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", args[0], err, lastLines(string(out), 8))
	}
	return nil
}

// lastLines is the end of a text.
func lastLines(text string, n int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}
