package election

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// restoring are the faults around a restored snapshot, which is where the rules of
// taking a lock are needed most.
var restoring = []faultKind{
	faultFreeze, faultFreeze, faultCut, faultCut, faultDestroy, faultSnapshot, faultSnapshot, faultRestore, faultRestore,
	faultRestore, faultResign, faultHandOver, faultSlowApp, faultHang, faultStale, faultLossy, faultSlow, faultLeave, faultJoin,
}

// TestSimulationSeeds plays the same scenarios each time. ELECTION_SIM_RUNS and
// ELECTION_SIM_SEED play others, and more.
func TestSimulationSeeds(t *testing.T) {
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
			return n
		}
		return otherwise
	}
	runs, first := number("ELECTION_SIM_RUNS", 80), number("ELECTION_SIM_SEED", 0)
	for name, kinds := range map[string][]faultKind{"all faults": nil, "restores": restoring} {
		t.Run(name, func(t *testing.T) {
			gains, excused := 0, 0
			for seed := first; seed < first+runs; seed++ {
				s := randomScenario(uint64(seed), kinds)
				w, failure := s.play()
				gains += w.gains
				excused += w.excused
				if failure != "" {
					t.Errorf("seed %d: %s", seed, failure)
					if runs == 1 {
						t.Logf("%v\n%s", s, w.story())
					}
				}
			}
			t.Logf("%d terms; at %d moments two leaders that could not know of each other", gains, excused)
		})
	}
}

// randomScenario draws a scenario from a seed, with the given kinds of faults or with
// all of them.
func randomScenario(seed uint64, kinds []faultKind) scenario {
	r := rand.New(rand.NewPCG(seed, 7))
	s := scenario{
		mode: []Mode{Balanced, Balanced, Strict, Fenced}[r.IntN(4)], seed: seed, procs: 2 + r.IntN(3), elections: 1 + r.IntN(2),
		lease: r.IntN(2) == 0, drift: r.IntN(2) == 0,
	}
	for range 1 + r.IntN(40) {
		f := fault{faultKind(r.IntN(int(faultKinds))), r.IntN(250), r.IntN(4), r.IntN(100), r.IntN(300)}
		if kinds != nil {
			f.kind, f.at = kinds[r.IntN(len(kinds))], f.at/2
		}
		s.faults = append(s.faults, f)
	}
	if kinds != nil && s.mode == Fenced {
		s.mode = Balanced
	}
	return s
}
