package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"
)

// startAttempts is how often Start tries other ports when somebody took one of
// them between the choice and the agent's start.
const startAttempts = 3

// errPortTaken means that an agent found one of its ports in use.
var errPortTaken = errors.New("a port was taken meanwhile")

// Start starts a cluster and returns when it is ready. Clusters of dead owners
// are swept first. On an error nothing is left running; the log tails of the
// agents are in the error.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("cluster configuration: %w", err)
	}
	sweepDead(ctx, cfg.Progress)
	if cfg.Binaries.Nomad == "" || cfg.Binaries.Consul == "" {
		found, err := Tools(ctx, cfg.Progress)
		if err != nil {
			return nil, err
		}
		if cfg.Binaries.Nomad == "" {
			cfg.Binaries.Nomad = found.Nomad
		}
		if cfg.Binaries.Consul == "" {
			cfg.Binaries.Consul = found.Consul
		}
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.StartTimeout)
	defer cancel()
	docker, err := useDocker(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return again(cfg.Progress, cfg.StandardPorts, func() (*Cluster, error) { return startOnce(ctx, cfg, docker) })
}

// useDocker decides whether the engine is used and prepares its infra image.
func useDocker(ctx context.Context, cfg Config) (bool, error) {
	if cfg.Docker == DockerOff {
		return false, nil
	}
	engine, err := dialEngine(ctx)
	if err != nil {
		if cfg.Docker == DockerRequired {
			return false, fmt.Errorf("docker is required: %w", err)
		}
		say(cfg.Progress, "no Docker (%v): the docker driver is left out", err)
		return false, nil
	}
	defer engine.close()
	// Nomad's docker driver works for root only.
	if os.Geteuid() != 0 {
		if cfg.Docker == DockerRequired {
			return false, errors.New("docker is required, and Nomad's docker driver needs root")
		}
		say(cfg.Progress, "Docker answers, but Nomad's docker driver needs root: it is left out")
		return false, nil
	}
	if err := buildPause(ctx, engine); err != nil {
		return false, fmt.Errorf("build infra image: %w", err)
	}
	return true, nil
}

// innerDrivers are the drivers that can work here.
func innerDrivers(docker bool) []string {
	var list []string
	if docker {
		list = append(list, "docker")
	}
	if os.Geteuid() == 0 {
		list = append(list, "exec") // it makes a chroot
	}
	return append(list, "raw_exec")
}

// newID is a short random name.
func newID() (string, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// prepareDir makes the root directory of a cluster.
func prepareDir(dir, id string) (string, error) {
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "np-"+id)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return "", fmt.Errorf("data directory: %w", err)
	}
	if len(entries) > 0 {
		return "", fmt.Errorf("data directory %s is not empty", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	// Mounts and processes are told with symlinks resolved.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	return dir, nil
}

// startOnce is Start on one choice of ports.
func startOnce(ctx context.Context, cfg Config, docker bool) (*Cluster, error) {
	var ports portPlan
	b, err := claim(record{Detached: cfg.Detached, Docker: docker, Keep: cfg.Keep, Name: cfg.name},
		cfg.Dir, cfg.Progress, func(block int) (list []int, err error) {
			ports, err = planPorts(block, cfg.Clients, cfg.StandardPorts)
			return ports.agents(), err
		})
	if err != nil {
		return nil, err
	}
	b.layout.ports = ports
	c := &Cluster{base: b, cfg: cfg}
	if err := c.bringUp(ctx, docker); err != nil {
		return nil, c.failed(err, c.Stop)
	}
	return c, nil
}

// newTransport is the one pool of connections of both API clients.
func newTransport() *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second}
}

// defaultClient is an HTTP client on these connections. It has no timeout of
// its own because a blocking query may be long: every call has a context.
func defaultClient(t *http.Transport) *http.Client { return &http.Client{Transport: t} }

// bringUp starts all agents and waits until they are ready.
func (c *Cluster) bringUp(ctx context.Context, docker bool) error {
	inner := innerDrivers(docker)
	var plugins []pluginConfig
	if c.cfg.PluginBinary != "" {
		for _, d := range inner {
			plugins = append(plugins, pluginConfig{Label: "lifecycle-" + d, Inner: d})
		}
	}
	wanted := append([]string{}, inner...)
	for _, p := range plugins {
		wanted = append(wanted, p.Label)
	}
	err := c.state.update(func(r *record) { r.NomadAddr, r.ConsulAddr = c.NomadAddr(), c.ConsulAddr() })
	if err != nil {
		return err
	}
	if err := writeFiles(c.layout, c.cfg, docker, plugins); err != nil {
		return err
	}
	if err := c.makeAPIs(); err != nil {
		return err
	}
	if !c.cfg.Detached {
		if err := c.guard(); err != nil {
			return err
		}
	}
	say(c.cfg.Progress, "starting Consul and Nomad with %d client(s) in %s", c.cfg.Clients, c.layout.dir)
	if err := c.launchServers(); err != nil {
		return err
	}
	if err := c.waitServers(ctx); err != nil {
		return err
	}
	for i := range c.cfg.Clients {
		if err := c.launchConsulClient(i); err != nil {
			return err
		}
	}
	if err := c.waitConsulClients(ctx); err != nil {
		return err
	}
	for i := range c.cfg.Clients {
		if err := c.launchClient(i); err != nil {
			return err
		}
	}
	if err := c.waitClients(ctx, wanted); err != nil {
		return err
	}
	return c.state.update(func(r *record) { r.Ready = true })
}

// makeAPIs makes the API clients, which need no running agents.
func (c *Cluster) makeAPIs() error {
	var err error
	hc := defaultClient(c.transport)
	c.nomad, err = nomadapi.NewClient(&nomadapi.Config{Address: c.NomadAddr(), HttpClient: hc})
	if err != nil {
		return fmt.Errorf("make nomad client: %w", err)
	}
	c.consul, err = consulapi.NewClient(&consulapi.Config{
		Address: strings.TrimPrefix(c.ConsulAddr(), "http://"), Scheme: "http", HttpClient: hc,
	})
	if err != nil {
		return fmt.Errorf("make consul client: %w", err)
	}
	return nil
}

// launchServers starts the agents of Consul and of the Nomad server.
func (c *Cluster) launchServers() error {
	if err := c.launchConsul("consul"); err != nil {
		return err
	}
	return c.launchNomad("server", c.layout.agentDir("server"))
}

// launchConsulClient starts the Consul agent of client i. It goes on running while
// the Nomad client is down.
func (c *Cluster) launchConsulClient(i int) error { return c.launchConsul(consulName(i)) }

// launchClient starts the agent of client i.
func (c *Cluster) launchClient(i int) error {
	return c.launchNomad(clientName(i), c.layout.clientDir(i))
}

// launchConsul starts a Consul agent on its configuration.
func (c *Cluster) launchConsul(name string) error {
	dir := c.layout.agentDir(name)
	return c.launch(name, dir, c.cfg.Binaries.Consul, "agent", "-config-file="+filepath.Join(dir, "consul.json"))
}

// launchNomad starts a Nomad agent on its configuration.
func (c *Cluster) launchNomad(name, dir string) error {
	return c.launch(name, dir, c.cfg.Binaries.Nomad, "agent",
		"-config="+filepath.Join(dir, "agent.hcl"), "-config="+filepath.Join(c.layout.dir, "extra.hcl"))
}

// restartClient starts client i again and waits for its node.
func (c *Cluster) restartClient(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.StartTimeout)
	defer cancel()
	if err := c.launchClient(i); err != nil {
		return err
	}
	if err := c.waitRegistered(ctx, i); err != nil {
		return err
	}
	return c.waitNode(ctx, c.nodes[i].ID, c.drivers)
}

// say writes one line for a person. Progress that cannot be shown is not worth
// an error.
func say(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format+"\n", args...)
}
