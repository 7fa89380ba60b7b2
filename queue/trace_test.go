package queue

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

var update = flag.Bool("update", false, "write testdata anew")

// tracer writes down what a shard is asked, what it answers and what it writes.
type tracer struct {
	t    *testing.T
	s    *shardState
	disk store
	log  strings.Builder
	zero int64
}

func newTracer(t *testing.T, cfg Config) *tracer {
	t.Helper()
	cfg, err := cfg.WithDefaults()
	must.NoError(t, err)
	tr := &tracer{t: t, disk: store{}, zero: 1_000_000}
	tr.s = tr.disk.load(t, cfg, tr.zero)
	return tr
}

func (tr *tracer) logf(format string, args ...any) {
	fmt.Fprintf(&tr.log, "%6d ms  %s\n", tr.s.now-tr.zero, fmt.Sprintf(format, args...))
}

func (tr *tracer) put(items ...Item) {
	var ready []prepared
	for _, it := range items {
		p, err := prepare(it)
		must.NoError(tr.t, err)
		ready = append(ready, p)
		tr.logf("enqueue  %s", p.raw)
	}
	out, ok, err := tr.s.enqueue(ready)
	must.True(tr.t, ok)
	if err != nil {
		tr.logf("         refused: %v", err)
		return
	}
	for _, e := range out {
		tr.logf("         %s", encode(e))
	}
}

func (tr *tracer) claim(worker string, stage, most int) []Claimed {
	tr.logf("claim    %s wants %d of stage %q", worker, most, tr.s.cfg.Stages[stage].Name)
	out := tr.s.claim(stage, worker, most)
	for _, c := range out {
		tr.logf("         %s", encode(c))
	}
	return out
}

func (tr *tracer) ack(a Ack) {
	tr.logf("ack      %s", encode(a))
	tr.logf("         %s", encode(ackOne(tr.t, tr.s, a)))
}

func (tr *tracer) flush() {
	ops := tr.s.flush()
	for i, o := range ops {
		verb := "set     "
		switch {
		case i == 0:
			verb = "cas     "
		case o.tree:
			verb = "delete* "
		case o.value == nil:
			verb = "delete  "
		}
		tr.logf("%s %s %s", verb, o.key, strings.ReplaceAll(string(o.value), "\n", ""))
	}
	tr.disk.apply(tr.t, ops)
	tr.s.check(tr.t)
}

func (tr *tracer) later(d time.Duration) {
	tr.s.now += d.Milliseconds()
	must.True(tr.t, tr.s.tick())
	tr.logf("(time passes)")
}

func (tr *tracer) takeOver() {
	tr.s = tr.disk.load(tr.t, tr.s.cfg, tr.s.now)
	tr.logf("(another broker reads the shard)")
}

// TestTraces compares what a shard does in some scenarios with testdata/*.trace, which
// -update writes anew.
func TestTraces(t *testing.T) {
	for name, play := range map[string]func(t *testing.T) *tracer{
		"life": func(t *testing.T) *tracer {
			tr := newTracer(t, Config{})
			tr.put(Item{Input: "in/a"}, Item{Input: "in/b", Key: "b"})
			tr.flush()
			tr.put(Item{Input: "in/b", Key: "b"})
			got := tr.claim("w1", 0, 10)
			tr.flush()
			tr.ack(Ack{ID: got[0].ID, Claim: got[0].Claim, Output: "out/a.1"})
			tr.ack(Ack{ID: got[0].ID, Claim: got[0].Claim, Output: "out/a.1"})
			tr.ack(Ack{ID: got[1].ID, Claim: got[1].Claim, Action: Retry, Reason: "no such file"})
			tr.flush()
			tr.later(2 * time.Second)
			got = tr.claim("w2", 0, 1)
			tr.flush()
			tr.ack(Ack{ID: got[0].ID, Claim: got[0].Claim, Output: "out/b.2"})
			tr.flush()
			tr.later(time.Minute)
			tr.flush()
			return tr
		},
		"lost": func(t *testing.T) *tracer {
			tr := newTracer(t, Config{Stages: []Stage{{Name: "work", MaxLost: 2}}})
			tr.put(Item{Input: "in/a"})
			got := tr.claim("w1", 0, 1)
			tr.flush()
			tr.later(15 * time.Second)
			tr.claim("w2", 0, 1)
			tr.flush()
			tr.ack(Ack{ID: got[0].ID, Claim: got[0].Claim, Output: "out/a.1"})
			tr.later(15 * time.Second)
			tr.flush()
			_, _, err := tr.s.redrive(0)
			must.NoError(t, err)
			tr.logf("redrive  0-0")
			tr.flush()
			return tr
		},
		"take_over": func(t *testing.T) *tracer {
			tr := newTracer(t, Config{})
			tr.put(Item{Input: "in/a"}, Item{Input: "in/b"})
			got := tr.claim("w1", 0, 1)
			tr.flush()
			tr.later(14 * time.Second)
			tr.claim("w2", 0, 1) // never written, so never answered
			tr.takeOver()
			tr.later(14 * time.Second) // the lease began anew
			tr.ack(Ack{ID: got[0].ID, Claim: got[0].Claim})
			tr.claim("w3", 0, 1)
			tr.flush()
			return tr
		},
		"pipeline": func(t *testing.T) *tracer {
			tr := newTracer(t, Config{Stages: []Stage{{Name: "words", Next: "merge"}, {Name: "merge", Collect: 2, Next: "print"}, {Name: "print"}}})
			tr.put(Item{Input: "in/a"}, Item{Input: "in/b"}, Item{Input: "in/c"})
			for _, c := range tr.claim("w1", 0, 3) {
				tr.ack(Ack{ID: c.ID, Claim: c.Claim, Output: "out/" + c.ID.String()})
				tr.flush()
			}
			tr.logf("seal")
			tr.s.head.Sealed = true
			tr.s.change()
			tr.later(0)
			tr.flush()
			for _, c := range tr.claim("w1", 1, 2) {
				tr.ack(Ack{ID: c.ID, Claim: c.Claim, Emit: []Item{{Input: "x"}}})
			}
			tr.flush()
			return tr
		},
		"group": func(t *testing.T) *tracer {
			tr := newTracer(t, Config{})
			tr.put(Item{Input: "a1", Group: "a"}, Item{Input: "a2", Group: "a"}, Item{Input: "b1", Group: "b"})
			got := tr.claim("w1", 0, 3)
			tr.ack(Ack{ID: got[0].ID, Claim: got[0].Claim, Action: Reject, Reason: "broken"})
			tr.claim("w2", 0, 3)
			tr.flush()
			return tr
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := play(t).log.String()
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
