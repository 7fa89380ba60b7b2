// Package lifecycle is the state machine of a task, without I/O and without
// Nomad.
//
//	Created ──► Starting ──► Running ──► Stopping ──► Stopped ──► Destroyed
//	   │           │  │         │                        ▲  ▲
//	   │           │  └─────────┼── (process ends) ──────┘  │
//	   │           └────────────┼── (start failed) ─────────┘
//	   └────────────────────────┴── (destroyed by force) ──► Destroyed
//
// The order follows Android's activities: the system, not the application,
// owns the state, and no application can count on the last callback.
package lifecycle

import (
	"fmt"
	"slices"
	"sync"
)

// State is where a task is in its life.
type State int

// The states, in the order of a task's life.
const (
	Created   State = iota // known, no process yet; prestart hooks run here
	Starting               // the process runs; poststart and ready hooks run here
	Running                // ready, and so told to Nomad
	Stopping               // a stop was asked for; prestop hooks run, then the process is stopped
	Stopped                // the process has ended; poststop hooks run here
	Destroyed              // forgotten; no further state follows
)

var names = [...]string{"created", "starting", "running", "stopping", "stopped", "destroyed"}

// String returns the state's name in lower case.
func (s State) String() string {
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("state(%d)", int(s))
	}
	return names[s]
}

// next lists the states that may follow each state. A process can end in any
// state in which there is one, and a destroy by force can come at any time.
var next = map[State][]State{
	Created:  {Starting, Stopped, Destroyed},
	Starting: {Running, Stopping, Stopped, Destroyed},
	Running:  {Stopping, Stopped, Destroyed},
	Stopping: {Stopped, Destroyed},
	Stopped:  {Destroyed},
}

// Machine holds the state of one task. Its methods may be called from several
// goroutines at once.
type Machine struct {
	mu    sync.Mutex // guards state
	state State
}

// New returns a machine in state initial: Created for a new task, Running for
// one that was recovered.
func New(initial State) *Machine { return &Machine{state: initial} }

// State returns the present state.
func (m *Machine) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// To changes the state. It is the only function that does. It reports false
// and changes nothing if to may not follow the present state: two causes often
// meet (a stop, and a process that ends by itself), and the later one has
// nothing left to do.
func (m *Machine) To(to State) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(next[m.state], to) {
		return false
	}
	m.state = to
	return true
}
