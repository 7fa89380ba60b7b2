package election

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

var update = flag.Bool("update", false, "write testdata anew")

const jobsKey = "election/leader/jobs"

// settledStage is a stage on which a leads, and the others are candidates.
func settledStage(others ...string) (*stage, *actor, []*actor) {
	s := newStage()
	a := s.start("a")
	s.run(2 * time.Second)
	var rest []*actor
	for _, id := range others {
		rest = append(rest, s.start(id))
	}
	s.run(time.Second)
	s.log.Reset()
	s.logf("", "(a leads)")
	return s, a, rest
}

// TestTraces compares what cores do in some scenarios with testdata/*.trace, which
// -update writes anew.
func TestTraces(t *testing.T) {
	leave := func(c *core) []action { return c.leave(c.byName["jobs"], ErrLeft) }
	resign := func(to string) func(c *core) []action {
		reason := ErrResigned
		if to != "" {
			reason = ErrHandedOver
		}
		return func(c *core) []action { return c.resign(c.byName["jobs"], reason, to, nil) }
	}
	scenarios := map[string]func() *stage{
		"first_election": func() *stage {
			s := newStage()
			s.start("a")
			s.start("b")
			s.run(3 * time.Second)
			return s
		},
		"resign": func() *stage {
			s, a, _ := settledStage("b", "c")
			a.onLoss = 100 * time.Millisecond
			a.do("resigns", resign(""))
			s.run(3 * time.Second)
			return s
		},
		"hand_over": func() *stage {
			s, a, _ := settledStage("b", "c")
			a.do("hands over to c", resign("c"))
			s.run(time.Second)
			return s
		},
		"hand_over_to_the_dead": func() *stage {
			s, a, rest := settledStage("b", "c")
			rest[1].cut = true
			a.do("hands over to c, which is cut off", resign("c"))
			s.run(2 * time.Second)
			return s
		},
		"leave": func() *stage {
			s, a, _ := settledStage("b")
			a.do("leaves", leave)
			s.run(time.Second)
			return s
		},
		"leader_dies": func() *stage {
			s, a, _ := settledStage("b", "c")
			s.dies(a)
			s.run(5 * time.Second)
			return s
		},
		"lock_answer_lost": func() *stage {
			s := newStage()
			a := s.start("a")
			s.run(time.Second)
			s.start("b")
			s.run(100 * time.Millisecond)
			s.logf("", "(the next answer to a is lost)")
			a.loses = 1
			s.run(3 * time.Second)
			return s
		},
		"release_answer_lost": func() *stage {
			s, a, _ := settledStage("b")
			a.loses = 1
			a.do("resigns, and the answer is lost", resign(""))
			s.run(3 * time.Second)
			return s
		},
		"trust_expires": func() *stage {
			s, a, _ := settledStage("b")
			a.cut = true
			s.logf("", "(a is cut off, and its session lives)")
			s.run(3 * time.Second)
			a.cut = false
			s.logf("", "(a is not cut off any more)")
			s.dirty = true
			s.run(3 * time.Second)
			return s
		},
		"key_deleted": func() *stage {
			s, _, _ := settledStage("b")
			s.logf("", "(somebody deletes the key)")
			s.consul.deleteKey(jobsKey)
			s.run(4 * time.Second)
			return s
		},
		"key_overwritten": func() *stage {
			s, _, _ := settledStage("b")
			s.logf("", "(somebody writes over the key)")
			s.consul.put(jobsKey, []byte("mine"))
			s.run(4 * time.Second)
			return s
		},
		"snapshot_restored": func() *stage {
			s, a, _ := settledStage("b")
			snap := s.consul.snapshot()
			a.do("resigns", resign(""))
			s.run(3 * time.Second)
			s.logf("", "(the snapshot from when a led is restored)")
			s.consul.restore(snap)
			s.run(5 * time.Second)
			return s
		},
		"same_id": func() *stage {
			s, a, _ := settledStage()
			s.logf("", "(a second process with the same id)")
			s.start("a")
			s.run(2 * time.Second)
			s.logf("", "(the first one dies)")
			s.dies(a)
			s.run(4 * time.Second)
			return s
		},
	}
	for name, play := range scenarios {
		t.Run(name, func(t *testing.T) {
			got := play().log.String()
			must.Eq(t, got, play().log.String()) // again
			path := filepath.Join("testdata", name+".trace")
			if *update {
				must.NoError(t, os.MkdirAll("testdata", 0o755))
				must.NoError(t, os.WriteFile(path, []byte(got), 0o600))
			}
			want, err := os.ReadFile(path)
			must.NoError(t, err)
			must.Eq(t, string(want), got)
		})
	}
}
