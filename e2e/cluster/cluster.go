package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"
)

// Node is one Nomad client of a cluster.
type Node struct {
	// Name as Nomad shows it, for example "client0".
	Name string
	// ID of the Nomad node. It survives StopClient, KillClient, StartClient.
	ID string
}

// Cluster is a running Consul with a running Nomad. Its methods may be called
// from several goroutines.
type Cluster struct {
	*base
	cfg     Config
	drivers []string // usable on every node, sorted
	nodes   []Node   // in client order

	nomad  *nomadapi.Client
	consul *consulapi.Client
}

// NomadAddr is the HTTP address of the Nomad server, http://127.0.0.1:port.
func (c *Cluster) NomadAddr() string { return loopbackURL(c.layout.ports.serverHTTP) }

// ClientAddr is the HTTP address of the agent of client i.
func (c *Cluster) ClientAddr(i int) string { return loopbackURL(c.layout.ports.clients[i].http) }

// ConsulAddr is the HTTP address of Consul, http://127.0.0.1:port.
func (c *Cluster) ConsulAddr() string { return loopbackURL(c.layout.ports.consulHTTP) }

// ConsulUI is the address of the web interface of Consul.
func (c *Cluster) ConsulUI() string { return c.ConsulAddr() + "/ui/" }

// Nomad is a client of the Nomad server's API.
func (c *Cluster) Nomad() *nomadapi.Client { return c.nomad }

// Consul is a client of Consul's API.
func (c *Cluster) Consul() *consulapi.Client { return c.consul }

// Nodes lists the Nomad clients in client order: Nodes()[i] is client i.
func (c *Cluster) Nodes() []Node { return slices.Clone(c.nodes) }

// Drivers lists, sorted, the task drivers that are healthy on every node and
// that tests may use: "raw_exec" always, "exec" as root, "docker" if an engine
// answers, and "lifecycle-<driver>" for each of them if there is a plugin.
func (c *Cluster) Drivers() []string { return slices.Clone(c.drivers) }

// HasDriver says whether Drivers lists the name.
func (c *Cluster) HasDriver(name string) bool { return slices.Contains(c.drivers, name) }

// Env is what a program needs in its environment to find the cluster:
// NOMAD_ADDR and CONSUL_HTTP_ADDR as KEY=value.
func (c *Cluster) Env() []string {
	return []string{"NOMAD_ADDR=" + c.NomadAddr(), "CONSUL_HTTP_ADDR=" + c.ConsulAddr()}
}

// Binary is the nomad program that runs.
func (c *Cluster) Binary() string { return c.cfg.Binaries.Nomad }

// CLI runs the nomad command with these arguments against the cluster and
// returns its standard output and standard error together. The error holds
// the output too.
func (c *Cluster) CLI(ctx context.Context, args ...string) (string, error) {
	return runCLI(ctx, c.cfg.Binaries.Nomad, append(c.Env(), "NOMAD_CLI_NO_COLOR=1"), args...)
}

// runCLI runs a command and returns all its output, which is in the error too.
func runCLI(ctx context.Context, binary string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %v: %w: %s", filepath.Base(binary), args, err, out)
	}
	return string(out), nil
}

// KillClient ends the agent of client i with SIGKILL, as a crash would: its
// plugins, executors and tasks go on running. It returns when the agent is gone.
func (c *Cluster) KillClient(i int) error { return c.end(clientName(i), true) }

// StopClient ends the agent of client i with SIGINT. As with KillClient its
// tasks go on running: Nomad finds them again at StartClient.
func (c *Cluster) StopClient(i int) error { return c.end(clientName(i), false) }

// StartClient starts client i again on its old data and ports and returns when
// its node is ready and its drivers are healthy.
func (c *Cluster) StartClient(ctx context.Context, i int) error { return c.restartClient(ctx, i) }

// PauseConsul stops the Consul agent of client i, so that it answers nobody, until
// ResumeConsul.
func (c *Cluster) PauseConsul(i int) error { return c.signal(consulName(i), syscall.SIGSTOP) }

// ResumeConsul lets it go on.
func (c *Cluster) ResumeConsul(i int) error { return c.signal(consulName(i), syscall.SIGCONT) }

// ClientPID is the process ID of the agent of client i, or 0 while it is down.
func (c *Cluster) ClientPID(i int) int { return c.pid(clientName(i)) }

// PluginPIDs are the processes of the lifecycle plugin that belong to client i
// and decorate the given driver ("docker" or "lifecycle-docker"). Nomad may
// run short-lived ones beside the main one, the main one is the oldest and
// comes first. Executors that the plugin started are not in the list.
func (c *Cluster) PluginPIDs(i int, driver string) ([]int, error) {
	return pluginPIDs(c.layout.clientMark(i), driver)
}

// CheckpointDir is the directory behind the checkpoint store "shared" of all
// clients.
func (c *Cluster) CheckpointDir() string { return c.layout.checkpointDir() }

// EndpointDir holds the sockets of the management endpoint of client i:
// node.sock is the one for all its tasks.
func (c *Cluster) EndpointDir(i int) string { return c.layout.endpointDir(i) }

// Stop stops the jobs, then the agents, then takes away everything that is
// left. It may be called more than once; every call returns the first one's
// error. It ends within Config.StopTimeout.
func (c *Cluster) Stop() error {
	c.stopOnce.Do(func() { c.stopErr = c.stop() })
	return c.stopErr
}
