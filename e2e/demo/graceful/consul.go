package graceful

import (
	"context"
	"fmt"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
)

// consulMeta is the metadata of a cluster's Nomad clients that has host:port of the
// Consul agent of the same node.
const consulMeta = "consul_http"

// ConsulAddr returns the template's consul_addr for a cluster: the URL of the Consul
// agent of the node on which an instance is placed, to be filled in by Nomad there.
// If the nodes do not tell it, it is the address given as the one for all.
func ConsulAddr(ctx context.Context, nomad *nomadapi.Client, forAll string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	nodes, _, err := nomad.Nodes().List(query(ctx))
	if err != nil {
		return "", fmt.Errorf("list nodes: %w", err)
	}
	for _, stub := range nodes {
		node, _, err := nomad.Nodes().Info(stub.ID, query(ctx))
		if err != nil {
			return "", fmt.Errorf("read node %s: %w", stub.Name, err)
		}
		if node.Meta[consulMeta] == "" {
			return forAll, nil
		}
	}
	return "http://${meta." + consulMeta + "}", nil
}
