package cluster

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
)

// Known says whether there is a state file of the cluster.
func Known(id string) (bool, error) {
	dir, err := stateDir()
	if err != nil {
		return false, err
	}
	_, err = loadState(filepath.Join(dir, id+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// LeftoversOf is Cluster.Leftovers from outside the owner.
func LeftoversOf(ctx context.Context, id string) ([]string, error) {
	dir, err := stateDir()
	if err != nil {
		return nil, err
	}
	s, err := loadState(filepath.Join(dir, id+".json"))
	if err != nil {
		return nil, err
	}
	return s.leftovers(ctx)
}
