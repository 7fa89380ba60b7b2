package cluster

import (
	"fmt"
	"path/filepath"
	"sort"
	"strings"
)

// pluginPIDs finds the main processes of the lifecycle plugin for a driver by
// the mark of their client. A plugin outlives its client and is found again by
// the next one, so the parent does not tell.
func pluginPIDs(mark, driver string) ([]int, error) {
	label := driver
	if !strings.HasPrefix(label, "lifecycle-") {
		label = "lifecycle-" + driver
	}
	all, err := processes()
	if err != nil {
		return nil, fmt.Errorf("find plugin %s: %w", label, err)
	}
	var found []procInfo
	for _, p := range all {
		if p.env(markEnv) == mark && p.isPlugin(label) {
			found = append(found, p)
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Start < found[j].Start })
	pids := make([]int, len(found))
	for i, p := range found {
		pids[i] = p.PID
	}
	return pids, nil
}

// isPlugin says whether the process was started as the plugin of this name.
// Executors and log collectors are the same program with a subcommand.
func (p procInfo) isPlugin(label string) bool {
	if len(p.args) == 0 || filepath.Base(p.args[0]) != label {
		return false
	}
	return len(p.args) == 1 || strings.HasPrefix(p.args[1], "-")
}
