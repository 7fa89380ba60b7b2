package election

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// scenario is one run of the simulation.
type scenario struct {
	mode      Mode
	seed      uint64
	procs     int
	elections int
	lease     bool
	drift     bool
	faults    []fault
}

// play runs a scenario and returns what went wrong.
func (s scenario) play() (*world, string) {
	w := newWorld(s.seed)
	for i := range s.elections {
		w.elections = append(w.elections, fmt.Sprintf("e%d", i))
	}
	cfg := func(id string) Config {
		c, err := Config{ID: id, Mode: s.mode}.withDefaults()
		if err != nil {
			panic(err)
		}
		return c
	}
	w.optionsOf = func(p *proc) Options {
		o := Options{Priority: len(p.id) % 3}
		if s.lease {
			o.Lease = 2 * time.Second
		}
		return o
	}
	unit := cfg("x").timing(s.mode).window
	if s.mode == Fenced {
		unit = DefaultTTL
	}
	rate := func() float64 {
		if !s.drift {
			return 1
		}
		return 0.96 + 0.08*w.rng.Float64()
	}
	for i := range s.procs {
		id := fmt.Sprintf("c%d", i)
		w.launch(w.start(id, cfg(id), rate()))
	}
	at := unit
	for _, f := range s.faults {
		at += unit * time.Duration(f.at) / 100
		w.run(at)
		if w.failure != "" {
			return w, w.failure
		}
		w.apply(f, unit, cfg, rate)
		w.check()
	}
	// The longest fault, then a time in which all has to come right.
	w.run(at + 4*unit)
	w.heal()
	end := w.now + 12*unit + 30*time.Second
	for w.now < end && w.failure == "" {
		w.run(w.now + unit/4)
	}
	if w.failure == "" {
		if text := w.settled(); text != "" {
			w.failf("not settled: %s", text)
		}
	}
	return w, w.failure
}

func drawScenario(t *rapid.T, kinds int) scenario {
	s := scenario{
		mode:      rapid.SampledFrom([]Mode{Balanced, Balanced, Strict, Fenced}).Draw(t, "mode"),
		seed:      rapid.Uint64().Draw(t, "seed"),
		procs:     rapid.IntRange(2, 4).Draw(t, "procs"),
		elections: rapid.IntRange(1, 2).Draw(t, "elections"),
		lease:     rapid.Bool().Draw(t, "lease"),
		drift:     rapid.Bool().Draw(t, "drift"),
	}
	s.faults = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) fault {
		return fault{
			kind: faultKind(rapid.IntRange(0, kinds-1).Draw(t, "kind")),
			at:   rapid.IntRange(0, 250).Draw(t, "at"),
			proc: rapid.IntRange(0, 3).Draw(t, "proc"),
			n:    rapid.IntRange(0, 99).Draw(t, "n"),
			long: rapid.IntRange(0, 300).Draw(t, "long"),
		}
	}), 1, 30).Draw(t, "faults")
	return s
}

func TestSimulation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScenario(t, int(faultKinds))
		if w, failure := s.play(); failure != "" {
			t.Fatalf("%s\n%s", failure, w.story())
		}
	})
}

// story is the end of what happened.
func (w *world) story() string {
	n := 150
	if os.Getenv("ELECTION_SIM_RUNS") == "1" {
		n = 5000
	}
	return strings.Join(w.trace[max(0, len(w.trace)-n):], "\n")
}
