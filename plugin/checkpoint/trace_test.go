package checkpoint

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

var rewrite = flag.Bool("rewrite", false, "write the golden traces anew")

// script is a scenario whose operations on the store are written down.
type script struct {
	t     *testing.T
	store *mem
	out   strings.Builder
}

// step does something, and writes down what that needed, and what fn says.
func (s *script) step(what string, fn func() string) {
	s.store.log = nil
	result := fn()
	s.out.WriteString(what + "\n")
	for _, line := range s.store.log {
		s.out.WriteString("    " + strings.ReplaceAll(line, prefix, "") + "\n")
	}
	if result != "" {
		s.out.WriteString("  = " + strings.ReplaceAll(result, prefix, "") + "\n")
	}
}

func (s *script) claims(alloc string, c *Chain) (session *Session) {
	s.step(alloc+" claims", func() string { session = claim(s.t, c, alloc); return "" })
	return session
}

func (s *script) saves(alloc string, session *Session, plan ...fault) {
	s.step(alloc+" saves", func() string {
		s.store.plan = plan
		saved, err := session.Save(s.t.Context(), []byte("state"), "interval")
		if err != nil {
			return err.Error()
		}
		if saved.Superseded != nil {
			return "saved, but superseded by " + saved.Superseded.Owner.Alloc
		}
		return "saved"
	})
}

func (s *script) ends(alloc string, session *Session, final bool) {
	s.step(alloc+" ends", func() string { must.NoError(s.t, session.End(s.t.Context(), "drained", final)); return "" })
}

func (s *script) restores(alloc string, c *Chain) {
	s.step(alloc+" restores", func() string {
		l, err := c.Latest(s.t.Context())
		must.NoError(s.t, err)
		if l.Checkpoint == nil {
			return "cold"
		}
		return l.Checkpoint.ref().String()
	})
}

// TestTraces compares what is asked of the store with testdata/*.txt, which
// -rewrite writes anew.
func TestTraces(t *testing.T) {
	scenarios := map[string]func(s *script, c func() *Chain){
		"drained": func(s *script, c func() *Chain) {
			a := c()
			session := s.claims("a", a)
			s.restores("a", a)
			for range 3 {
				s.saves("a", session)
			}
			s.ends("a", session, false)
			b := c()
			s.step("b waits", func() string {
				must.NoError(s.t, b.AwaitEnd(s.t.Context(), "b", time.Second, nil))
				return ""
			})
			session = s.claims("b", b)
			s.restores("b", b)
			s.saves("b", session)
		},
		"stopped_for_good": func(s *script, c func() *Chain) {
			a := c()
			session := s.claims("a", a)
			s.saves("a", session)
			s.ends("a", session, true)
			b := c()
			s.claims("b", b)
			s.restores("b", b)
		},
		"preempted_and_late": func(s *script, c func() *Chain) {
			a, b := c(), c()
			sa := s.claims("a", a)
			s.saves("a", sa)
			polls := 0
			s.step("b waits, until a is said to be over", func() string {
				must.NoError(s.t, b.AwaitEnd(s.t.Context(), "b", time.Second, func(context.Context, Owner) bool {
					polls++
					return polls == 3
				}))
				return ""
			})
			sb := s.claims("b", b)
			s.restores("b", b)
			s.saves("a", sa)
			s.saves("b", sb)
			s.saves("a", sa)
			s.ends("a", sa, false)
			s.restores("c", c())
		},
		"crash_between_data_and_manifest": func(s *script, c func() *Chain) {
			a := c()
			sa := s.claims("a", a)
			s.saves("a", sa)
			s.saves("a", sa, none, refuse)
			sa, err := a.Resume(sa.Epoch(), Owner{Alloc: "a"})
			must.NoError(s.t, err)
			s.saves("a, resumed,", sa)
			s.restores("b", c())
		},
		"lost_answers": func(s *script, c func() *Chain) {
			a := c()
			s.store.plan = []fault{none, after}
			sa := s.claims("a", a)
			s.saves("a", sa, after, none, none, before, after)
			s.store.plan = []fault{after}
			s.ends("a", sa, false)
		},
	}
	for name, play := range scenarios {
		t.Run(name, func(t *testing.T) {
			s := &script{t: t, store: &mem{shared: newShared()}}
			play(s, func() *Chain { return open(t, s.store, Options{Keep: 2}) })
			path := filepath.Join("testdata", name+".txt")
			if *rewrite {
				must.NoError(t, os.MkdirAll("testdata", 0o755))
				must.NoError(t, os.WriteFile(path, []byte(s.out.String()), 0o600))
			}
			want, err := os.ReadFile(path)
			must.NoError(t, err)
			must.Eq(t, string(want), s.out.String())
		})
	}
}
