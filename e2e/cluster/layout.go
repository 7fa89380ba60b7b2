package cluster

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
)

// maxClients bounds the clients of one cluster, so that each gets a useful
// range of dynamic ports.
const maxClients = 8

// markEnv is an environment variable that every process of a cluster inherits
// from its agent: the cluster's ID, a colon and the agent's name.
const markEnv = "NOMAD_PATTERNS_CLUSTER"

// layout says where everything of a cluster lies: directories and ports.
type layout struct {
	id    string
	dir   string
	ports portPlan
}

func (l layout) logDir() string { return filepath.Join(l.dir, "logs") }

// pluginDir is where Nomad finds the plugin under the names of its drivers.
func (l layout) pluginDir() string { return filepath.Join(l.dir, "plugins") }

// agentDir holds the configuration and the data of one agent.
func (l layout) agentDir(name string) string { return filepath.Join(l.dir, name) }

// clientName is the name of client i, of its directory, log and Nomad node.
func clientName(i int) string { return "client" + strconv.Itoa(i) }

// consulName is the name of the Consul agent of client i, of its directory and log.
func consulName(i int) string { return "consul" + strconv.Itoa(i) }

// consulSocket is where the Consul agent of client i listens besides, for tasks
// with a network of their own.
func (l layout) consulSocket(i int) string {
	return filepath.Join(l.agentDir(consulName(i)), "http.sock")
}

// clientDir is short because sockets lie below it.
func (l layout) clientDir(i int) string { return filepath.Join(l.dir, "c"+strconv.Itoa(i)) }

// allocDir holds the allocations of client i.
func (l layout) allocDir(i int) string { return filepath.Join(l.clientDir(i), "a") }

// checkpointDir is the directory behind the checkpoint store "shared".
func (l layout) checkpointDir() string { return filepath.Join(l.dir, "checkpoints") }

// endpointDir holds the sockets of the management endpoint of client i.
func (l layout) endpointDir(i int) string { return filepath.Join(l.clientDir(i), "e") }

// mark is the value of markEnv for one agent.
func (l layout) mark(agent string) string { return l.id + ":" + agent }

// clientMark is the value of markEnv for client i.
func (l layout) clientMark(i int) string { return l.mark(clientName(i)) }

// loopbackURL is the HTTP address of a port.
func loopbackURL(port int) string { return "http://" + loopbackAddr(port) }

// loopbackAddr is host:port on loopback.
func loopbackAddr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// portPlan holds every port of a cluster.
type portPlan struct {
	consulHTTP, consulGRPC, consulDNS, consulServer, consulLAN, consulWAN int
	serverHTTP, serverRPC, serverSerf                                     int
	clients                                                               []clientPorts
}

// clientPorts are the ports of one Nomad client.
type clientPorts struct {
	http, rpc int
	// consulHTTP and consulLAN belong to the Consul agent of this client. Two
	// Nomad clients at one Consul agent would remove one another's services.
	consulHTTP, consulLAN int
	// minDynamic to maxDynamic, both included, is what Nomad gives to tasks.
	// The clients share loopback, so their ranges must not overlap.
	minDynamic, maxDynamic int
}

const (
	// The blocks lie below the ports that Linux gives to outgoing connections
	// (32768 and up), so that a port stays free while its agent restarts, and
	// above what services commonly use.
	firstBlock = 10000
	blockSize  = 1000
	blockCount = 22
	// agentPorts are kept at the start of a block for the agents themselves.
	agentPorts = 50
)

// planPorts deals out the ports of block number b. With standard ports the
// two HTTP addresses are the ones that the tools expect by default.
func planPorts(b, clients int, standard bool) (portPlan, error) {
	if b < 0 || b >= blockCount {
		return portPlan{}, fmt.Errorf("no port block %d", b)
	}
	next := firstBlock + b*blockSize
	take := func() int { next++; return next - 1 }
	p := portPlan{
		consulHTTP: take(), consulGRPC: take(), consulDNS: take(),
		consulServer: take(), consulLAN: take(), consulWAN: take(),
		serverHTTP: take(), serverRPC: take(), serverSerf: take(),
	}
	if standard {
		p.consulHTTP, p.serverHTTP = 8500, 4646
	}
	share := (blockSize - agentPorts) / clients
	for i := range clients {
		lo := firstBlock + b*blockSize + agentPorts + i*share
		p.clients = append(p.clients, clientPorts{http: take(), rpc: take(), consulHTTP: take(), consulLAN: take(), minDynamic: lo, maxDynamic: lo + share - 1})
	}
	return p, nil
}

// agents lists the ports that the agents themselves listen on.
func (p portPlan) agents() []int {
	list := []int{
		p.consulHTTP, p.consulGRPC, p.consulDNS, p.consulServer, p.consulLAN, p.consulWAN,
		p.serverHTTP, p.serverRPC, p.serverSerf,
	}
	for _, c := range p.clients {
		list = append(list, c.http, c.rpc, c.consulHTTP, c.consulLAN)
	}
	return list
}

// portsFree returns an error that names the first port that somebody listens on.
func portsFree(ports []int) error {
	for _, port := range ports {
		l, err := net.Listen("tcp", loopbackAddr(port))
		if err != nil {
			return fmt.Errorf("port %d: %w", port, err)
		}
		if err := l.Close(); err != nil {
			return fmt.Errorf("port %d: %w", port, err)
		}
	}
	return nil
}
