package cluster

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// DockerMode says whether the cluster uses the Docker engine.
type DockerMode string

const (
	// DockerAuto uses the engine if it answers this user. It is the default.
	DockerAuto DockerMode = "auto"
	// DockerOff never talks to an engine.
	DockerOff DockerMode = "off"
	// DockerRequired makes Start fail if no engine answers.
	DockerRequired DockerMode = "required"
)

// Config says what to start. The zero value is one client, free ports, a fresh
// temporary directory, Docker if there is one, and no plugin.
type Config struct {
	// Dir is the root of all data. It must not exist yet, or be empty; it is
	// removed by Stop. Keep it short: tasks put unix sockets under it, and the
	// path of a socket has at most 107 bytes. Default: a fresh directory
	// below os.TempDir.
	Dir string

	// Clients is the number of Nomad client agents beside the one Nomad
	// server. Default 1.
	Clients int

	// StandardPorts asks for 8500 (Consul) and 4646 (Nomad server) instead of
	// free ones. Start fails if they are taken.
	StandardPorts bool

	// Docker says whether the docker driver is used. Default DockerAuto.
	Docker DockerMode

	// PluginBinary is the path of nomad-driver-lifecycle, see BuildPlugin.
	// Empty: no plugin is installed.
	PluginBinary string

	// Binaries are the agents to run. Default: what Tools finds or builds.
	Binaries Binaries

	// ExtraNomadConfig is HCL that is merged into the configuration of every
	// Nomad agent, after everything else. Example: a server block with a
	// default_scheduler_config that allows preemption.
	ExtraNomadConfig string

	// LogLevel of all agents. Default "INFO".
	LogLevel string

	// Keep leaves Dir (data and logs) in place after Stop. Processes,
	// containers and mounts are taken away all the same.
	Keep bool

	// Detached lets the cluster outlive this process: no watchdog is started,
	// and only Stop, or Down in another process, ends it.
	Detached bool

	// StartTimeout bounds Start, building of tools not included.
	// Default 90 s.
	StartTimeout time.Duration

	// StopTimeout bounds Stop. About half of it is given to the jobs to end
	// by themselves, so pre-stop hooks run. Default 60 s.
	StopTimeout time.Duration

	// Progress gets one line per step for a person. Default: discarded.
	Progress io.Writer

	// name marks the cluster that belongs to a checkout ("devcluster up").
	name string
}

// withDefaults returns the configuration with every default filled in, or an
// error that names the field that cannot be right.
func (c Config) withDefaults() (Config, error) {
	if c.Clients < 0 || c.Clients > maxClients {
		return c, fmt.Errorf("clients: %d is not between 1 and %d", c.Clients, maxClients)
	}
	if c.Clients == 0 {
		c.Clients = 1
	}
	switch c.Docker {
	case "":
		c.Docker = DockerAuto
	case DockerAuto, DockerOff, DockerRequired:
	default:
		return c, fmt.Errorf("docker: %q is not one of %q, %q, %q", c.Docker, DockerAuto, DockerOff, DockerRequired)
	}
	if c.PluginBinary != "" {
		abs, err := filepath.Abs(c.PluginBinary)
		if err != nil {
			return c, fmt.Errorf("plugin binary: %w", err)
		}
		if _, err := os.Stat(abs); err != nil {
			return c, fmt.Errorf("plugin binary: %w", err)
		}
		c.PluginBinary = abs
	}
	if c.LogLevel == "" {
		c.LogLevel = "INFO"
	}
	c.LogLevel = strings.ToUpper(c.LogLevel)
	if c.StartTimeout <= 0 {
		c.StartTimeout = 90 * time.Second
	}
	if c.StopTimeout <= 0 {
		c.StopTimeout = 60 * time.Second
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	return c, nil
}
