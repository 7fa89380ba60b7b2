package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"
)

const (
	// pollEvery is used where an agent does not answer yet: there is no event
	// to wait for before it listens.
	pollEvery = 100 * time.Millisecond
	// blockFor bounds one blocking query.
	blockFor = 5 * time.Second
)

// poll calls try until it succeeds, an agent has ended, or ctx is over.
func (b *base) poll(ctx context.Context, what string, try func(context.Context) error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		tryCtx, cancel := context.WithTimeout(ctx, blockFor)
		err := try(tryCtx)
		cancel()
		if err == nil {
			return nil
		}
		if dead := b.dead(); dead != "" {
			return fmt.Errorf("wait for %s: %s has ended: %w", what, dead, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// waitServers waits until Consul and the Nomad server work.
func (c *Cluster) waitServers(ctx context.Context) error {
	if err := c.poll(ctx, "consul", c.consulWorks); err != nil {
		return err
	}
	err := c.poll(ctx, "a nomad leader", func(ctx context.Context) error {
		leader, err := c.leader(ctx)
		if err == nil && leader == "" {
			err = errors.New("no leader yet")
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.waitKeyring(ctx)
}

// waitConsulClients waits until the Consul agents of the clients know the leader.
func (c *Cluster) waitConsulClients(ctx context.Context) error {
	for i, p := range c.layout.ports.clients {
		err := c.poll(ctx, consulName(i), func(ctx context.Context) error {
			_, err := c.consulLeader(ctx, p.consulHTTP)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// consulLeader asks the Consul agent on a port for the RPC address of the leader.
func (b *base) consulLeader(ctx context.Context, port int) (leader string, err error) {
	if err := b.get(ctx, loopbackURL(port)+"/v1/status/leader", &leader); err != nil {
		return "", err
	}
	if leader == "" {
		return "", errors.New("it knows no leader yet")
	}
	return leader, nil
}

// waitClients waits for all that Start promises about the clients, and fills
// in nodes and drivers.
func (c *Cluster) waitClients(ctx context.Context, wanted []string) error {
	c.nodes = make([]Node, c.cfg.Clients)
	for i := range c.nodes {
		if err := c.waitRegistered(ctx, i); err != nil {
			return err
		}
		id, err := c.nodeID(ctx, i)
		if err != nil {
			return err
		}
		c.nodes[i] = Node{Name: clientName(i), ID: id}
		if err := c.waitNode(ctx, id, wanted); err != nil {
			return err
		}
	}
	c.drivers = sortedCopy(wanted)
	return c.poll(ctx, "nomad's services in consul", c.servicesKnown)
}

// consulWorks checks that Consul has a leader and takes a write.
func (c *Cluster) consulWorks(ctx context.Context) error {
	return takesWrites(ctx, c.consul, c.layout.id)
}

// takesWrites checks that a write through a Consul agent reaches a leader.
func takesWrites(ctx context.Context, consul *consulapi.Client, value string) error {
	const key = "nomad-patterns/ready"
	q := (&consulapi.WriteOptions{}).WithContext(ctx)
	if _, err := consul.KV().Put(&consulapi.KVPair{Key: key, Value: []byte(value)}, q); err != nil {
		return fmt.Errorf("write to consul: %w", err)
	}
	if _, err := consul.KV().Delete(key, q); err != nil {
		return fmt.Errorf("delete from consul: %w", err)
	}
	return nil
}

// leader asks the server who leads; Status().Leader takes no context.
func (c *Cluster) leader(ctx context.Context) (string, error) {
	var leader string
	_, err := c.nomad.Raw().Query("/v1/status/leader", &leader, (&nomadapi.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("ask for the nomad leader: %w", err)
	}
	return leader, nil
}

// waitRegistered waits until the agent of client i has registered its node: it
// has been given a heartbeat interval. The server may know the node earlier,
// but only a registered client runs allocations.
func (c *Cluster) waitRegistered(ctx context.Context, i int) error {
	return c.poll(ctx, "the registration of "+clientName(i), func(ctx context.Context) error {
		var self struct {
			Stats struct {
				Client struct {
					HeartbeatTTL string `json:"heartbeat_ttl"`
				} `json:"client"`
			} `json:"stats"`
		}
		if err := c.get(ctx, c.ClientAddr(i)+"/v1/agent/self", &self); err != nil {
			return err
		}
		ttl, err := time.ParseDuration(self.Stats.Client.HeartbeatTTL)
		if err != nil {
			return fmt.Errorf("heartbeat interval: %w", err)
		}
		if ttl <= 0 {
			return errors.New("it has no heartbeat interval yet")
		}
		return nil
	})
}

// waitKeyring waits until the server can sign identities: a client that
// registers earlier is refused and tries again only half a minute later.
func (c *Cluster) waitKeyring(ctx context.Context) error {
	return c.poll(ctx, "nomad's keyring", func(ctx context.Context) error {
		var jwks struct {
			Keys []json.RawMessage `json:"keys"`
		}
		if err := c.get(ctx, c.NomadAddr()+"/.well-known/jwks.json", &jwks); err != nil {
			return err
		}
		if len(jwks.Keys) == 0 {
			return errors.New("it has no key yet")
		}
		return nil
	})
}

// get reads JSON from an address for which the API client has no method.
func (b *base) get(ctx context.Context, address string, result any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("get %s: %w", address, err)
	}
	resp, err := defaultClient(b.transport).Do(req)
	if err != nil {
		return fmt.Errorf("get %s: %w", address, err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("get %s: %w", address, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s: %.200s", address, resp.Status, body)
	}
	if err := json.Unmarshal(body, result); err != nil {
		return fmt.Errorf("get %s: %w", address, err)
	}
	return nil
}

// nodeID waits for the node of client i to be known to the server.
func (c *Cluster) nodeID(ctx context.Context, i int) (id string, err error) {
	err = c.poll(ctx, "node "+clientName(i), func(ctx context.Context) error {
		list, _, err := c.nomad.Nodes().List((&nomadapi.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return fmt.Errorf("list nodes: %w", err)
		}
		for _, n := range list {
			if n.Name == clientName(i) {
				id = n.ID
				return nil
			}
		}
		return fmt.Errorf("only %d nodes are known", len(list))
	})
	return id, err
}

// waitNode waits until the node is ready and has all wanted drivers detected
// and healthy.
func (c *Cluster) waitNode(ctx context.Context, id string, wanted []string) error {
	var index uint64
	return c.poll(ctx, "node "+id, func(ctx context.Context) error {
		q := (&nomadapi.QueryOptions{WaitIndex: index, WaitTime: blockFor / 2}).WithContext(ctx)
		node, meta, err := c.nomad.Nodes().Info(id, q)
		if err != nil {
			return fmt.Errorf("read node: %w", err)
		}
		index = meta.LastIndex
		return nodeReady(node, wanted)
	})
}

// nodeReady says what is missing at a node, if anything.
func nodeReady(node *nomadapi.Node, wanted []string) error {
	if node.Status != nomadapi.NodeStatusReady {
		return fmt.Errorf("status is %q", node.Status)
	}
	for _, name := range wanted {
		d := node.Drivers[name]
		switch {
		case d == nil || !d.Detected:
			return fmt.Errorf("driver %q is not detected", name)
		case !d.Healthy:
			return fmt.Errorf("driver %q is not healthy: %s", name, d.HealthDescription)
		}
	}
	return nil
}

// servicesKnown checks that Consul lists the server and all clients.
func (c *Cluster) servicesKnown(ctx context.Context) error {
	for name, want := range map[string]int{"nomad": 1, "nomad-client": c.cfg.Clients} {
		list, _, err := c.consul.Catalog().Service(name, "", (&consulapi.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return fmt.Errorf("look up service %q: %w", name, err)
		}
		if len(list) < want {
			return fmt.Errorf("service %q has %d of %d instances", name, len(list), want)
		}
	}
	return nil
}
