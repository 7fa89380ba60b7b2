package server

import (
	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// readWish reads the parameters mode, priority and lease.
func readWish(q *agent.Query) wish {
	var w wish
	if q.Has("mode") {
		mode, err := election.ParseMode(q.Get("mode"))
		if err != nil {
			q.Failf("mode", "%v", err)
		}
		w.mode = &mode
	}
	w.priority = q.Int("priority", -election.MaxPriority, election.MaxPriority)
	w.lease = q.Duration("lease", election.MinLease, election.MaxLease)
	return w
}
