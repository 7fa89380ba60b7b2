package group

// Event is a point in the life of the whole allocation, at which a group hook
// can run.
type Event string

const (
	// OnCreated is due before the first of our tasks has a process. A
	// declaration that comes to light later, with the start of its own task, is
	// due then. It is no longer due once a whole stop is decided.
	OnCreated Event = "created"

	// OnRunning is due when all tasks that the plan has running side by side do:
	// main tasks and sidecars. Our tasks say so themselves; of others Facts.Running
	// does, and those of which it says nothing do not count. Without a plan it is
	// not due: nobody knows how many there will be. An allocation whose tasks
	// were never all up at one time never runs it, nor one of which a whole stop
	// is decided before.
	OnRunning Event = "running"

	// OnStopping is due when the whole allocation has been told to stop, before
	// any of our tasks does if the first one to be stopped is told why; late
	// rather than never, but not when all have stopped. Stops and restarts of
	// single tasks, and "nomad alloc restart", are no whole stop.
	OnStopping Event = "stopping"

	// OnStopped is due when the whole allocation stops or is at its end, and all
	// our tasks have stopped, poststop tasks included.
	OnStopped Event = "stopped"
)

// Events lists all events in their order.
func Events() []Event { return []Event{OnCreated, OnRunning, OnStopping, OnStopped} }

func eventNames() []string {
	var names []string
	for _, e := range Events() {
		names = append(names, string(e))
	}
	return names
}

// Facts is what the caller knows from elsewhere, that is, from Nomad's API. The
// zero value is to know nothing.
type Facts struct {
	Plan     Plan            // nil if unknown
	Whole    bool            // the whole allocation has been told to stop; this is never taken back
	Terminal bool            // all its tasks have ended for good
	Running  map[string]bool // of tasks that are not ours: whether each runs; those not in it are unknown
}

// Due decides whether an event is due. members are all that have joined. begun
// says that its hook was begun and has not ended: what was cut is due again, also
// if it would not be begun any more. That the hook has not ended before is the
// caller's to check.
func Due(e Event, f Facts, members []Member, begun bool) bool {
	whole := f.Whole || anyWhole(members)
	switch e {
	case OnCreated:
		return !whole && !f.Terminal
	case OnRunning:
		return !whole && !f.Terminal && (begun || allRunning(f, members))
	case OnStopping:
		return begun || whole && !f.Terminal && !allStopped(members)
	case OnStopped:
		return (whole || f.Terminal) && allGone(f, members)
	}
	return false
}

// anyWhole reports whether some process knows that the whole allocation stops.
func anyWhole(members []Member) bool {
	for _, m := range members {
		if m.Whole {
			return true
		}
	}
	return false
}

func allRunning(f Facts, members []Member) bool {
	index := byTask(members)
	some := false
	for name, t := range f.Plan {
		if t.Hook != "" && !t.Sidecar || t.Hook == "poststop" {
			continue // it comes and goes
		}
		if m, joined := index[name]; joined {
			if m.State != Running {
				return false
			}
		} else if t.Managed {
			return false
		} else if runs, known := f.Running[name]; known && !runs {
			return false
		}
		some = true
	}
	return some
}

func allStopped(members []Member) bool {
	for _, m := range members {
		if m.State != Stopped {
			return false
		}
	}
	return true
}

// allGone reports whether no task of ours runs, or will.
func allGone(f Facts, members []Member) bool {
	for _, m := range members {
		// At the end of the allocation nobody speaks for a lost task any more.
		if m.State != Stopped && (!f.Terminal || !m.Lost) {
			return false
		}
	}
	if f.Terminal {
		return true
	}
	index := byTask(members)
	for name, t := range f.Plan {
		if _, joined := index[name]; t.Hook == "poststop" && t.Managed && !joined {
			return false // Nomad starts it now
		}
	}
	return true
}
