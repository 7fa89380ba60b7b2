package lifecycle

import (
	"sync"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func TestMachine_Paths(t *testing.T) {
	cases := map[string]struct {
		initial State
		steps   []State
		ok      []bool
		end     State
	}{
		"whole life":                 {Created, []State{Starting, Running, Stopping, Stopped, Destroyed}, []bool{true, true, true, true, true}, Destroyed},
		"prestart hook fails":        {Created, []State{Stopped, Destroyed}, []bool{true, true}, Destroyed},
		"process ends while running": {Running, []State{Stopped, Stopping}, []bool{true, false}, Stopped},
		"second stop is refused":     {Running, []State{Stopping, Stopping}, []bool{true, false}, Stopping},
		"no way back":                {Stopped, []State{Running, Starting, Created}, []bool{false, false, false}, Stopped},
		"destroyed is the end":       {Destroyed, []State{Stopped, Destroyed}, []bool{false, false}, Destroyed},
		"unknown state is refused":   {Running, []State{State(42)}, []bool{false}, Running},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m := New(tc.initial)
			for i, s := range tc.steps {
				must.Eq(t, tc.ok[i], m.To(s), must.Sprintf("step %d to %s", i, s))
			}
			must.Eq(t, tc.end, m.State())
		})
	}
}

// A machine never goes back, whatever is asked of it.
func TestMachine_OnlyForward(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := New(Created)
		for _, s := range rapid.SliceOf(rapid.IntRange(-1, 7)).Draw(r, "steps") {
			before := m.State()
			changed := m.To(State(s))
			if changed && (m.State() <= before || m.State() != State(s)) {
				r.Fatalf("asked for %s, went from %s to %s", State(s), before, m.State())
			}
			if !changed && m.State() != before {
				r.Fatalf("refused, but changed from %s to %s", before, m.State())
			}
		}
	})
}

// Of many who ask for the same change at once, one gets it.
func TestMachine_OneWinner(t *testing.T) {
	m := New(Running)
	var wg sync.WaitGroup
	var mu sync.Mutex
	wins := 0
	for range 32 {
		wg.Go(func() {
			if m.To(Stopping) {
				mu.Lock()
				wins++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	must.Eq(t, 1, wins)
}

func TestState_String(t *testing.T) {
	must.Eq(t, "stopping", Stopping.String())
	must.Eq(t, "state(42)", State(42).String())
}
