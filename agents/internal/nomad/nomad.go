// Package nomad finds the Nomad agent.
package nomad

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/nomad/api"
)

// NewClient makes a client of the agent that NOMAD_ADDR and the other variables of Nomad's
// own tools name. Without an address, in a task, it is the socket that Nomad puts into the
// task's secrets, for which the task needs a workload identity in its environment.
func NewClient() (*api.Client, error) {
	cfg := api.DefaultConfig()
	if dir := os.Getenv("NOMAD_SECRETS_DIR"); dir != "" && os.Getenv("NOMAD_ADDR") == "" {
		socket := filepath.Join(dir, "api.sock")
		if _, err := os.Stat(socket); err == nil { //nolint:gosec // Nomad says where it is
			cfg.Address = "unix://" + socket
		}
	}
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("use nomad: %w", err)
	}
	return client, nil
}
