package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	consulapi "github.com/hashicorp/consul/api"
)

// Servers is the number of servers, running or not.
func (c *Consul) Servers() int { return len(c.servers) }

// Clients is the number of client agents, running or not.
func (c *Consul) Clients() int { return len(c.clients) }

// ServerAddr is the HTTP address of server i, http://127.0.0.1:port.
func (c *Consul) ServerAddr(i int) string { return loopbackURL(c.ports.servers[i].http) }

// ClientAddr is the HTTP address of client agent i, http://127.0.0.1:port.
func (c *Consul) ClientAddr(i int) string { return loopbackURL(c.ports.clients[i].http) }

// ServerDNS is the DNS address of server i, 127.0.0.1:port.
func (c *Consul) ServerDNS(i int) string { return loopbackAddr(c.ports.servers[i].dns) }

// ClientDNS is the DNS address of client agent i, 127.0.0.1:port.
func (c *Consul) ClientDNS(i int) string { return loopbackAddr(c.ports.clients[i].dns) }

// Server is a client of the API of server i, with the token if there is one.
func (c *Consul) Server(i int) *consulapi.Client { return c.servers[i] }

// Client is a client of the API of client agent i, with the token if there is
// one.
func (c *Consul) Client(i int) *consulapi.Client { return c.clients[i] }

// Token may do everything; it is empty without ACLs.
func (c *Consul) Token() string { return c.token }

// Binary is the consul program that runs.
func (c *Consul) Binary() string { return c.cfg.Binary }

// ServerNode is the name of server i in the catalog.
func (c *Consul) ServerNode(i int) string { return consulServerName(i) }

// ClientNode is the name of client agent i in the catalog.
func (c *Consul) ClientNode(i int) string { return consulAgentName(i) }

// ServerPID is the process ID of server i, or 0 while it is down.
func (c *Consul) ServerPID(i int) int { return c.pid(consulServerName(i)) }

// ClientPID is the process ID of client agent i, or 0 while it is down.
func (c *Consul) ClientPID(i int) int { return c.pid(consulAgentName(i)) }

// KillServer ends server i with SIGKILL, as a crash would, and returns when it
// is gone.
func (c *Consul) KillServer(i int) error { return c.end(consulServerName(i), true) }

// KillClient ends client agent i with SIGKILL, as a crash would, and returns
// when it is gone.
func (c *Consul) KillClient(i int) error { return c.end(consulAgentName(i), true) }

// PauseServer stops server i with SIGSTOP.
func (c *Consul) PauseServer(i int) error { return c.signal(consulServerName(i), syscall.SIGSTOP) }

// ResumeServer lets server i go on.
func (c *Consul) ResumeServer(i int) error { return c.signal(consulServerName(i), syscall.SIGCONT) }

// PauseClient stops client agent i with SIGSTOP.
func (c *Consul) PauseClient(i int) error { return c.signal(consulAgentName(i), syscall.SIGSTOP) }

// ResumeClient lets client agent i go on.
func (c *Consul) ResumeClient(i int) error { return c.signal(consulAgentName(i), syscall.SIGCONT) }

// StartServer starts server i again on its old data and ports and returns when
// it takes writes for the leader.
func (c *Consul) StartServer(ctx context.Context, i int) error {
	return c.restart(ctx, consulServerName(i), c.servers[i])
}

// StartClient starts client agent i again on its old ports and returns when
// the servers answer it and its node is healthy.
func (c *Consul) StartClient(ctx context.Context, i int) error {
	return c.restart(ctx, consulAgentName(i), c.clients[i])
}

// ForgetClient removes the data of client agent i, which must be down: its
// services, its checks, the members that it knew. It keeps its node ID, as an
// agent does that takes it from the machine.
func (c *Consul) ForgetClient(i int) error {
	name := consulAgentName(i)
	if c.pid(name) != 0 {
		return fmt.Errorf("forget data of %s: it runs", name)
	}
	data := filepath.Join(c.layout.agentDir(name), "data")
	entries, err := os.ReadDir(data)
	if err != nil {
		return fmt.Errorf("forget data of %s: %w", name, err)
	}
	for _, e := range entries {
		if e.Name() == "node-id" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(data, e.Name())); err != nil {
			return fmt.Errorf("forget data of %s: %w", name, err)
		}
	}
	return nil
}

// Leader waits until a running server names a running server as the leader and
// returns its index.
func (c *Consul) Leader(ctx context.Context) (leader int, err error) {
	err = c.poll(ctx, "a consul leader", func(ctx context.Context) error {
		lastErr := errors.New("no server runs")
		for i, p := range c.ports.servers {
			if c.ServerPID(i) == 0 {
				continue
			}
			// One that is frozen must not use up the time of the others.
			one, cancel := context.WithTimeout(ctx, time.Second)
			address, err := c.consulLeader(one, p.http)
			cancel()
			if err != nil {
				lastErr = err
				continue
			}
			at := slices.IndexFunc(c.ports.servers, func(p consulAgentPorts) bool { return loopbackAddr(p.server) == address })
			if at < 0 || c.ServerPID(at) == 0 {
				lastErr = fmt.Errorf("%s still believes in %s", consulServerName(i), address)
				continue
			}
			leader = at
			return nil
		}
		return lastErr
	})
	return leader, err
}

// Snapshot is the state of all servers, for Restore.
func (c *Consul) Snapshot(ctx context.Context) (snapshot []byte, err error) {
	err = c.lead(ctx, func(leader *consulapi.Client) error {
		r, _, err := leader.Snapshot().Save((&consulapi.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return err
		}
		snapshot, err = io.ReadAll(r)
		return errors.Join(err, r.Close())
	})
	if err != nil {
		return nil, fmt.Errorf("take snapshot: %w", err)
	}
	return snapshot, nil
}

// Restore puts the servers back to a snapshot.
func (c *Consul) Restore(ctx context.Context, snapshot []byte) error {
	err := c.lead(ctx, func(leader *consulapi.Client) error {
		return leader.Snapshot().Restore((&consulapi.WriteOptions{}).WithContext(ctx), bytes.NewReader(snapshot))
	})
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	return nil
}

// lead asks the leader for something. Who was it a moment ago may say that there is none
// now: then nothing has happened, and the next one is asked.
func (c *Consul) lead(ctx context.Context, do func(leader *consulapi.Client) error) error {
	var final error
	err := c.poll(ctx, "a consul leader that stays one", func(ctx context.Context) error {
		leader, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		err = do(c.servers[leader])
		if err != nil && strings.Contains(err.Error(), "No cluster leader") {
			return err
		}
		final = err
		return nil
	})
	return errors.Join(err, final)
}

// CLI runs the consul command with these arguments against server 0 and
// returns its standard output and standard error together. The error holds
// the output too.
func (c *Consul) CLI(ctx context.Context, args ...string) (string, error) {
	return runCLI(ctx, c.cfg.Binary, c.Env(c.ServerAddr(0)), args...)
}

// Env is what a program needs in its environment to find the agent at an
// address: CONSUL_HTTP_ADDR and, with ACLs, CONSUL_HTTP_TOKEN as KEY=value.
func (c *Consul) Env(address string) []string {
	env := []string{"CONSUL_HTTP_ADDR=" + address}
	if c.token != "" {
		env = append(env, "CONSUL_HTTP_TOKEN="+c.token)
	}
	return env
}

// restart starts an agent again and waits until it is ready.
func (c *Consul) restart(ctx context.Context, name string, api *consulapi.Client) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.StartTimeout)
	defer cancel()
	if err := c.launchAgent(name); err != nil {
		return err
	}
	return c.waitAgent(ctx, name, api)
}

// waitAgent waits until writes through the agent reach the leader and its node
// is healthy.
func (c *Consul) waitAgent(ctx context.Context, name string, api *consulapi.Client) error {
	return c.poll(ctx, name, func(ctx context.Context) error {
		if err := takesWrites(ctx, api, c.layout.id); err != nil {
			return err
		}
		checks, _, err := api.Health().Node(name, (&consulapi.QueryOptions{RequireConsistent: true}).WithContext(ctx))
		if err != nil {
			return fmt.Errorf("read health of node %s: %w", name, err)
		}
		if !nodePasses(checks) {
			return fmt.Errorf("node %s is not healthy yet", name)
		}
		return nil
	})
}

// nodePasses says whether the gossip finds the node alive. Checks of services
// on it are not the agent's own.
func nodePasses(checks consulapi.HealthChecks) bool {
	return slices.ContainsFunc(checks, func(h *consulapi.HealthCheck) bool {
		return h.CheckID == "serfHealth" && h.Status == consulapi.HealthPassing
	})
}
