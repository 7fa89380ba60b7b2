package load

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/hashicorp/consul/api"
)

// Consul discovers the instances of a service whose checks all pass, as seen by
// the agent that client talks to.
func Consul(client *api.Client, service string) Discover {
	return func(ctx context.Context) ([]string, error) {
		options := (&api.QueryOptions{}).WithContext(ctx)
		entries, _, err := client.Health().Service(service, "", true, options)
		if err != nil {
			return nil, fmt.Errorf("read health of service %q: %w", service, err)
		}
		addresses := make([]string, 0, len(entries))
		for _, e := range entries {
			host := e.Service.Address
			if host == "" {
				host = e.Node.Address // a service without one is at its node's
			}
			addresses = append(addresses, net.JoinHostPort(host, strconv.Itoa(e.Service.Port)))
		}
		return addresses, nil
	}
}
