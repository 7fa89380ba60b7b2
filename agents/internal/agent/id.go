package agent

import (
	"fmt"
	"os"
	"strings"
)

// DefaultID names this process: in a Nomad allocation "<group>-<index>-<first 8 of the
// allocation's ID>", elsewhere "<host name>-<process ID>". It consists of letters,
// digits, dots, underscores and dashes.
func DefaultID() (string, error) {
	var id string
	if alloc := os.Getenv("NOMAD_ALLOC_ID"); alloc != "" {
		id = fmt.Sprintf("%s-%s-%.8s", os.Getenv("NOMAD_GROUP_NAME"), os.Getenv("NOMAD_ALLOC_INDEX"), alloc)
	} else {
		host, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("find a name for this process: %w", err)
		}
		id = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	id = strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r) {
			return r
		}
		return '-'
	}, id)
	return strings.TrimLeft(id, "._-"), nil
}
