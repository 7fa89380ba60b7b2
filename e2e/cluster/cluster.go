package cluster

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"

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
	cfg     Config
	drivers []string // usable on every node, sorted
	nodes   []Node   // in client order
	layout  layout
	state   *stateFile
	dog     *watchdog // nil if detached

	nomad     *nomadapi.Client
	consul    *consulapi.Client
	transport *http.Transport // shared by both API clients

	// mu guards what follows. An entry of clientP is nil while that client is
	// down.
	mu       sync.Mutex
	consulP  *process
	consulCP []*process // Consul agents of the clients, in client order
	serverP  *process
	clientP  []*process
	keep     bool // as Config.Keep, or set by Keep

	stopOnce sync.Once
	stopErr  error
}

// ID is a short name of the cluster, unique on this machine.
func (c *Cluster) ID() string { return c.layout.id }

// Dir is the root of the data of all agents.
func (c *Cluster) Dir() string { return c.layout.dir }

// LogDir holds one log file per process: consul.log, server.log,
// client0.log, … It is removed by Stop unless the cluster is kept.
func (c *Cluster) LogDir() string { return c.layout.logDir() }

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

// CLI runs the nomad command with these arguments against the cluster and
// returns its standard output and standard error together. The error holds
// the output too.
func (c *Cluster) CLI(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.cfg.Binaries.Nomad, args...)
	cmd.Env = append(os.Environ(), c.Env()...)
	cmd.Env = append(cmd.Env, "NOMAD_CLI_NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("nomad %v: %w: %s", args, err, out)
	}
	return string(out), nil
}

// Keep makes Stop leave Dir in place, for example because a test failed.
func (c *Cluster) Keep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep = true
}

// KillClient ends the agent of client i with SIGKILL, as a crash would: its
// plugins, executors and tasks go on running. It returns when the agent is gone.
func (c *Cluster) KillClient(i int) error { return c.endClient(i, true) }

// StopClient ends the agent of client i with SIGINT. As with KillClient its
// tasks go on running: Nomad finds them again at StartClient.
func (c *Cluster) StopClient(i int) error { return c.endClient(i, false) }

// StartClient starts client i again on its old data and ports and returns when
// its node is ready and its drivers are healthy.
func (c *Cluster) StartClient(ctx context.Context, i int) error { return c.restartClient(ctx, i) }

// ClientPID is the process ID of the agent of client i, or 0 while it is down.
func (c *Cluster) ClientPID(i int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.clientP[i]; p != nil {
		return p.ident.PID
	}
	return 0
}

// PluginPIDs are the processes of the lifecycle plugin that belong to client i
// and decorate the given driver ("docker" or "lifecycle-docker"). Nomad may
// run short-lived ones beside the main one, the main one is the oldest and
// comes first. Executors that the plugin started are not in the list.
func (c *Cluster) PluginPIDs(i int, driver string) ([]int, error) {
	return pluginPIDs(c.layout.clientMark(i), driver)
}

// Stop stops the jobs, then the agents, then takes away everything that is
// left. It may be called more than once; every call returns the first one's
// error. It ends within Config.StopTimeout.
func (c *Cluster) Stop() error {
	c.stopOnce.Do(func() { c.stopErr = c.stop() })
	return c.stopErr
}

// Leftovers lists in plain words what exists of the cluster now: processes,
// containers, mounts, network namespaces, cgroups. After Stop it should be
// empty.
func (c *Cluster) Leftovers(ctx context.Context) ([]string, error) {
	return c.state.leftovers(ctx)
}
