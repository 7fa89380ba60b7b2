package driver

import (
	"fmt"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// CreateNetwork implements drivers.DriverNetworkManager. Nomad asks only
// drivers that say MustInitiateNetwork, which is docker.
func (d *Driver) CreateNetwork(allocID string, req *drivers.NetworkCreateRequest) (*drivers.NetworkIsolationSpec, bool, error) {
	m, ok := d.inner.(drivers.DriverNetworkManager)
	if !ok {
		return nil, false, fmt.Errorf("driver %s does not create networks", d.name)
	}
	return m.CreateNetwork(allocID, req)
}

// DestroyNetwork implements drivers.DriverNetworkManager.
func (d *Driver) DestroyNetwork(allocID string, spec *drivers.NetworkIsolationSpec) error {
	m, ok := d.inner.(drivers.DriverNetworkManager)
	if !ok {
		return fmt.Errorf("driver %s does not create networks", d.name)
	}
	return m.DestroyNetwork(allocID, spec)
}
