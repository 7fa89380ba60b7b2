// Package lifecycle is the state machine of a task, without I/O and without
// Nomad.
//
//	Created ─► Restoring ─► Starting ─► Running ─► Stopping ─► Saving ─► Stopped ─► Destroyed
//	   │  │        │          ▲ │ │        │         ▲ │          │        ▲ ▲
//	   │  └────────┼──────────┘ │ └────────┼─────────┘ └──────────┼────────┘ │
//	   │   (no checkpoint)      │    (start failed)    (nothing to save)     │
//	   └───────────┴────────────┴──────────┴──────────────────────┴──────────┘
//	              (the process could not start, or has ended by itself)
//
// Destroyed can follow every state: a destroy by force comes when it likes.
//
// The order follows Android's activities: the system, not the application,
// owns the state, and no application can count on the last callback.
package lifecycle

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// State is where a task is in its life.
type State int

// The states, in the order of a task's life.
const (
	Created   State = iota // known, no process yet; prestart hooks run here
	Restoring              // no process yet; its last checkpoint is fetched
	Starting               // the process runs; it is given the checkpoint, then poststart and ready hooks run
	Running                // ready, and so told to Nomad
	Stopping               // a stop was asked for; prestop hooks run
	Saving                 // the process still runs and gives its checkpoint; after that it is stopped
	Stopped                // the process has ended; poststop hooks run here
	Destroyed              // forgotten; no further state follows
)

var names = [...]string{"created", "restoring", "starting", "running", "stopping", "saving", "stopped", "destroyed"}

// States lists all states in the order of a task's life.
func States() []State {
	all := make([]State, len(names))
	for i := range all {
		all[i] = State(i)
	}
	return all
}

// String returns the state's name in lower case.
func (s State) String() string {
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("state(%d)", int(s))
	}
	return names[s]
}

// MarshalText returns the state's name, so that JSON has names and no numbers.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *State) UnmarshalText(text []byte) error {
	i := slices.Index(names[:], string(text))
	if i < 0 {
		return fmt.Errorf("no such state: %q", text)
	}
	*s = State(i)
	return nil
}

// next lists the states that may follow each state. A process can end in any
// state in which there is one, and a destroy by force can come at any time.
var next = map[State][]State{
	Created:   {Restoring, Starting, Stopped, Destroyed},
	Restoring: {Starting, Stopped, Destroyed},
	Starting:  {Running, Stopping, Stopped, Destroyed},
	Running:   {Stopping, Stopped, Destroyed},
	Stopping:  {Saving, Stopped, Destroyed},
	Saving:    {Stopped, Destroyed},
	Stopped:   {Destroyed},
}

// Stop is why a task stops, and by when.
type Stop struct {
	Reason   string    // one of package reason's, for example "drained"
	Final    bool      // nothing will take up the task's state again
	Detail   string    // in the words of whoever decided; "" if unknown
	Deadline time.Time // when the process will be killed; zero until the stop itself has begun
}

// Status is a task's present state. It is a value: what a caller holds does
// not change any more.
type Status struct {
	State State
	Since time.Time // when the state was entered
	Stop  *Stop     // nil until a stop is known of; before Stopping it is an announcement. Never written to
}

// Soon reports whether a stop has been decided that has not begun.
func (s Status) Soon() bool { return s.Stop != nil && s.State < Stopping }

// Transition is one change of the state.
type Transition struct {
	From, To State
	Spent    time.Duration // in From
	Status   Status        // after the change
}

// Machine holds the state of one task. Its methods may be called from several
// goroutines at once.
type Machine struct {
	now      func() time.Time
	observer func(Transition)

	order sync.Mutex // held while a change is made and told, so that changes are told in order

	mu      sync.Mutex // guards the fields below
	status  Status
	changed chan struct{} // closed at the next change of status
}

// New returns a machine in state initial: Created for a new task, Running for
// one that was recovered. now is the clock. observer, if not nil, is told each
// change of the state in order and before To returns; it must not call To or
// Announce.
func New(initial State, now func() time.Time, observer func(Transition)) *Machine {
	if observer == nil {
		observer = func(Transition) {}
	}
	return &Machine{
		now: now, observer: observer,
		status:  Status{State: initial, Since: now()},
		changed: make(chan struct{}),
	}
}

// State returns the present state.
func (m *Machine) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status.State
}

// Status returns the present status and a channel that is closed when it is
// no longer the present one.
func (m *Machine) Status() (Status, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status, m.changed
}

// To changes the state. It is the only function that does. It reports false
// and changes nothing if to may not follow the present state: two causes often
// meet (a stop, and a process that ends by itself), and the later one has
// nothing left to do.
//
// stop, if not nil, is why; from then on it is part of the status.
func (m *Machine) To(to State, stop *Stop) bool {
	m.order.Lock()
	defer m.order.Unlock()
	m.mu.Lock()
	from := m.status
	if !slices.Contains(next[from.State], to) {
		m.mu.Unlock()
		return false
	}
	now := m.now()
	m.status = Status{State: to, Since: now, Stop: from.Stop}
	if stop != nil {
		m.status.Stop = copied(stop)
	}
	t := Transition{From: from.State, To: to, Spent: now.Sub(from.Since), Status: m.status}
	m.tell()
	m.mu.Unlock()
	m.observer(t)
	return true
}

// Announce makes a stop known that has been decided and has not begun. The
// state stays as it is. It reports false if the task is stopping already, or
// the same is known already.
func (m *Machine) Announce(stop Stop) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.status.Stop
	if m.status.State >= Stopping || known != nil && *known == stop {
		return false
	}
	m.status.Stop = &stop
	m.tell()
	return true
}

// tell wakes those who wait for a change. m.mu is held.
func (m *Machine) tell() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func copied(s *Stop) *Stop {
	c := *s
	return &c
}
