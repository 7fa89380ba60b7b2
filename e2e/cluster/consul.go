package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	consulapi "github.com/hashicorp/consul/api"
)

const (
	maxConsulServers = 7
	maxConsulClients = 16
)

// ConsulConfig says what [StartConsul] starts. The zero value is one server
// without client agents on free ports, in a fresh temporary directory.
type ConsulConfig struct {
	// Dir is the root of all data. It must not exist yet, or be empty; it is
	// removed by Stop. Default: a fresh directory below os.TempDir.
	Dir string

	// Servers is the number of Consul servers, 1 to 7. Default 1.
	Servers int

	// Clients is the number of client agents beside them, 0 to 16.
	Clients int

	// ACL turns access control on: what has no token may do nothing. See
	// [Consul.Token].
	ACL bool

	// RaftMultiplier stretches the timeouts of Raft, 1 to 10. Default 1, what
	// Consul recommends for production (its own default is 5).
	RaftMultiplier int

	// ExtraConfig is JSON that is merged into the configuration of every
	// agent, and ExtraClientConfig into that of the client agents, after
	// everything else. Example: {"limits":{"http_max_conns_per_client":10}}.
	ExtraConfig       string
	ExtraClientConfig string

	// Binary is the consul to run. Default: what Tools finds or builds.
	Binary string

	// LogLevel of all agents. Default "INFO".
	LogLevel string

	// Keep leaves Dir (data and logs) in place after Stop.
	Keep bool

	// StartTimeout bounds StartConsul (building of tools not included),
	// StartServer and StartClient. Default 60 s.
	StartTimeout time.Duration

	// StopTimeout bounds Stop. Default 30 s.
	StopTimeout time.Duration

	// Progress gets one line per step for a person. Default: discarded.
	Progress io.Writer
}

// withDefaults returns the configuration with every default filled in, or an
// error that names the field that cannot be right.
func (c ConsulConfig) withDefaults() (ConsulConfig, error) {
	for _, n := range []struct {
		field            string
		value            *int
		min, max, preset int
	}{
		{"servers", &c.Servers, 1, maxConsulServers, 1},
		{"clients", &c.Clients, 0, maxConsulClients, 0},
		{"raft multiplier", &c.RaftMultiplier, 1, 10, 1},
	} {
		if *n.value == 0 {
			*n.value = n.preset
		}
		if *n.value < n.min || *n.value > n.max {
			return c, fmt.Errorf("%s: %d is not between %d and %d", n.field, *n.value, n.min, n.max)
		}
	}
	if c.LogLevel == "" {
		c.LogLevel = "INFO"
	}
	c.LogLevel = strings.ToUpper(c.LogLevel)
	if c.StartTimeout <= 0 {
		c.StartTimeout = 60 * time.Second
	}
	if c.StopTimeout <= 0 {
		c.StopTimeout = 30 * time.Second
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	return c, nil
}

// Consul is a running Consul of one or several servers and client agents,
// without Nomad. Like [Cluster] it leaves nothing behind, whether Stop is
// called or its owner dies. Its methods may be called from several goroutines.
//
// Servers and client agents are counted from 0.
type Consul struct {
	*base
	cfg     ConsulConfig
	ports   consulPorts
	token   string
	servers []*consulapi.Client
	clients []*consulapi.Client
}

// consulPorts holds the ports of all agents.
type consulPorts struct{ servers, clients []consulAgentPorts }

// consulAgentPorts are the ports of one agent; server and wan only of servers.
type consulAgentPorts struct{ http, dns, lan, server, wan int }

// planConsulPorts deals out the ports of block number b.
func planConsulPorts(b, servers, clients int) (consulPorts, error) {
	if b < 0 || b >= blockCount {
		return consulPorts{}, fmt.Errorf("no port block %d", b)
	}
	next := firstBlock + b*blockSize
	take := func() int { next++; return next - 1 }
	var p consulPorts
	for range servers {
		p.servers = append(p.servers, consulAgentPorts{http: take(), dns: take(), lan: take(), server: take(), wan: take()})
	}
	for range clients {
		p.clients = append(p.clients, consulAgentPorts{http: take(), dns: take(), lan: take()})
	}
	return p, nil
}

// all lists the ports.
func (p consulPorts) all() []int {
	var list []int
	for _, s := range p.servers {
		list = append(list, s.http, s.dns, s.lan, s.server, s.wan)
	}
	for _, c := range p.clients {
		list = append(list, c.http, c.dns, c.lan)
	}
	return list
}

// consulServerName and consulAgentName are the names of directories, logs and
// nodes.
func consulServerName(i int) string { return "consul-server" + strconv.Itoa(i) }
func consulAgentName(i int) string  { return "consul-client" + strconv.Itoa(i) }

// StartConsul starts servers and client agents and returns when a leader takes
// writes and every agent is a healthy node of the catalog. Clusters of dead
// owners are swept first. On an error nothing is left running; the log tails of
// the agents are in the error.
func StartConsul(ctx context.Context, cfg ConsulConfig) (*Consul, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("consul configuration: %w", err)
	}
	sweepDead(ctx, cfg.Progress)
	if cfg.Binary == "" {
		if cfg.Binary, err = consulTool().find(ctx, cfg.Progress); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.StartTimeout)
	defer cancel()
	return again(cfg.Progress, false, func() (*Consul, error) { return startConsulOnce(ctx, cfg) })
}

// startConsulOnce is StartConsul on one choice of ports.
func startConsulOnce(ctx context.Context, cfg ConsulConfig) (*Consul, error) {
	var ports consulPorts
	b, err := claim(record{Keep: cfg.Keep}, cfg.Dir, cfg.Progress, func(block int) (list []int, err error) {
		ports, err = planConsulPorts(block, cfg.Servers, cfg.Clients)
		return ports.all(), err
	})
	if err != nil {
		return nil, err
	}
	c := &Consul{base: b, cfg: cfg, ports: ports}
	if err := c.bringUp(ctx); err != nil {
		return nil, c.failed(err, c.Stop)
	}
	return c, nil
}

// bringUp starts all agents and waits until they are ready.
func (c *Consul) bringUp(ctx context.Context) error {
	if c.cfg.ACL {
		var err error
		if c.token, err = newUUID(); err != nil {
			return err
		}
	}
	err := c.state.update(func(r *record) { r.ConsulAddr = c.ServerAddr(0) })
	if err == nil {
		err = errors.Join(c.makeAPIs(), c.writeFiles())
	}
	if err == nil {
		err = c.guard()
	}
	if err != nil {
		return err
	}
	say(c.cfg.Progress, "starting Consul with %d server(s) and %d client agent(s) in %s", c.cfg.Servers, c.cfg.Clients, c.layout.dir)
	for i := range c.cfg.Servers {
		if err := c.launchAgent(consulServerName(i)); err != nil {
			return err
		}
	}
	for i := range c.cfg.Clients {
		if err := c.launchAgent(consulAgentName(i)); err != nil {
			return err
		}
	}
	for i := range c.cfg.Servers {
		if err := c.waitAgent(ctx, consulServerName(i), c.servers[i]); err != nil {
			return err
		}
	}
	for i := range c.cfg.Clients {
		if err := c.waitAgent(ctx, consulAgentName(i), c.clients[i]); err != nil {
			return err
		}
	}
	return c.state.update(func(r *record) { r.Ready = true })
}

// newUUID is a random UUID, as Consul wants its tokens.
func newUUID() (string, error) {
	var parts [4]string
	for i := range parts {
		id, err := newID()
		if err != nil {
			return "", err
		}
		parts[i] = id
	}
	return fmt.Sprintf("%s-%s-4%s-a%s-%s%s", parts[0], parts[1][:4], parts[1][5:], parts[2][5:], parts[2][:4], parts[3]), nil
}

// makeAPIs makes the API clients, which need no running agents.
func (c *Consul) makeAPIs() error {
	dial := func(ports []consulAgentPorts) (list []*consulapi.Client, err error) {
		for _, p := range ports {
			client, err := consulapi.NewClient(&consulapi.Config{
				Address: loopbackAddr(p.http), Scheme: "http", Token: c.token, HttpClient: defaultClient(c.transport),
			})
			if err != nil {
				return nil, fmt.Errorf("make consul client: %w", err)
			}
			list = append(list, client)
		}
		return list, nil
	}
	var err error
	if c.servers, err = dial(c.ports.servers); err != nil {
		return err
	}
	c.clients, err = dial(c.ports.clients)
	return err
}

// writeFiles makes the directories and writes the configuration of all agents.
func (c *Consul) writeFiles() error {
	if err := os.MkdirAll(c.layout.logDir(), 0o755); err != nil {
		return fmt.Errorf("make directories of the agents: %w", err)
	}
	var join []string
	for _, p := range c.ports.servers {
		join = append(join, loopbackAddr(p.lan))
	}
	for i, p := range c.ports.servers {
		agent := consulAgent{
			ports: map[string]int{
				"http": p.http, "grpc": -1, "grpc_tls": -1, "dns": p.dns,
				"server": p.server, "serf_lan": p.lan, "serf_wan": p.wan,
			},
			more: consulServing(c.cfg.Servers, c.cfg.RaftMultiplier),
		}
		if err := c.writeAgent(consulServerName(i), agent, join, ""); err != nil {
			return err
		}
	}
	for i, p := range c.ports.clients {
		agent := consulAgent{
			ports: map[string]int{"http": p.http, "grpc": -1, "grpc_tls": -1, "dns": p.dns, "serf_lan": p.lan},
			more:  map[string]any{"server": false},
		}
		if err := c.writeAgent(consulAgentName(i), agent, join, c.cfg.ExtraClientConfig); err != nil {
			return err
		}
	}
	return nil
}

// writeAgent writes the files of one agent: its configuration, and what the
// caller of StartConsul wants to have merged, in the order of the merge.
func (c *Consul) writeAgent(name string, agent consulAgent, join []string, extra string) error {
	dir := c.layout.agentDir(name)
	agent.node, agent.dataDir = name, filepath.Join(dir, "data")
	agent.logLevel, agent.join = c.cfg.LogLevel, join
	if c.cfg.ACL {
		agent.more["acl"] = map[string]any{
			"enabled": true, "default_policy": "deny",
			"tokens": map[string]string{"initial_management": c.token, "agent": c.token},
		}
	}
	text, err := agent.render()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(agent.dataDir, 0o755); err != nil {
		return fmt.Errorf("make directories of the agents: %w", err)
	}
	for file, text := range map[string]string{"1-agent.json": text, "2-extra.json": c.cfg.ExtraConfig, "3-extra.json": extra} {
		if text == "" {
			text = "{}"
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	return nil
}

// launchAgent starts an agent on its configuration.
func (c *Consul) launchAgent(name string) error {
	dir := c.layout.agentDir(name)
	return c.launch(name, dir, c.cfg.Binary, "agent", "-config-file="+filepath.Join(dir, "1-agent.json"),
		"-config-file="+filepath.Join(dir, "2-extra.json"), "-config-file="+filepath.Join(dir, "3-extra.json"))
}

// Stop ends all agents and takes away everything that is left. It may be
// called more than once; every call returns the first one's error. It ends
// within ConsulConfig.StopTimeout.
func (c *Consul) Stop() error {
	c.stopOnce.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), c.cfg.StopTimeout)
		defer cancel()
		// The agents hold nothing outside Dir, so the sweep may kill them.
		c.stopErr = errors.Join(c.noteKeep(), c.clear(ctx))
	})
	return c.stopErr
}
