package cluster

import (
	"encoding/json"
	"fmt"
	"path/filepath"
)

// consulAgent is what the configuration of a Consul agent is made of.
type consulAgent struct {
	node     string // name of the node
	dataDir  string
	logLevel string
	ports    map[string]int
	join     []string // addresses of other agents' LAN gossip; may be empty
	more     map[string]any
}

// render writes the configuration as JSON.
func (a consulAgent) render() (string, error) {
	m := map[string]any{
		"node_name":   a.node,
		"data_dir":    a.dataDir,
		"bind_addr":   "127.0.0.1",
		"client_addr": "127.0.0.1",
		"log_level":   a.logLevel,
		// All programs of a cluster share one address.
		"limits":               map[string]any{"http_max_conns_per_client": 2000, "rpc_max_conns_per_client": 2000},
		"disable_update_check": true,
		"leave_on_terminate":   false,
		"ports":                a.ports,
	}
	if len(a.join) > 0 {
		m["retry_join"], m["retry_interval"] = a.join, "1s"
	}
	for k, v := range a.more {
		m[k] = v
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return "", fmt.Errorf("render configuration of consul agent %s: %w", a.node, err)
	}
	return string(b) + "\n", nil
}

// consulServing is added for a Consul server that is one of so many.
func consulServing(servers, raftMultiplier int) map[string]any {
	return map[string]any{
		"server":           true,
		"bootstrap_expect": servers,
		"performance":      map[string]any{"raft_multiplier": raftMultiplier},
	}
}

// consulConfig renders the configuration of the Consul server of a Nomad
// cluster.
func consulConfig(l layout, logLevel string) (string, error) {
	p := l.ports
	more := consulServing(1, 1)
	more["ui_config"] = map[string]any{"enabled": true}
	return consulAgent{
		node: "consul-" + l.id, dataDir: filepath.Join(l.agentDir("consul"), "data"), logLevel: logLevel,
		ports: map[string]int{
			"http": p.consulHTTP, "grpc": p.consulGRPC, "grpc_tls": -1, "dns": p.consulDNS,
			"server": p.consulServer, "serf_lan": p.consulLAN, "serf_wan": p.consulWAN,
		},
		more: more,
	}.render()
}

// consulClientConfig renders the configuration of the Consul agent of client i
// of a Nomad cluster.
func consulClientConfig(l layout, i int, logLevel string) (string, error) {
	p := l.ports.clients[i]
	return consulAgent{
		node: consulName(i) + "-" + l.id, dataDir: filepath.Join(l.agentDir(consulName(i)), "data"), logLevel: logLevel,
		ports: map[string]int{"http": p.consulHTTP, "grpc": -1, "grpc_tls": -1, "dns": -1, "serf_lan": p.consulLAN},
		join:  []string{loopbackAddr(l.ports.consulLAN)},
		more: map[string]any{
			"server":    false,
			"addresses": map[string]string{"http": "127.0.0.1 unix://" + l.consulSocket(i)},
		},
	}.render()
}
