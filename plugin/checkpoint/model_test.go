package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// process is a task's start, as this package sees it: a client of the store of
// its own, and a hold on an epoch.
type process struct {
	who     int // the identity
	alloc   string
	store   *mem
	chain   *Chain
	session *Session
}

// world is what is known of chains from outside: the saves and the ends that
// have been acknowledged.
type world struct {
	t     *rapid.T
	store *shared
	now   time.Time
	keep  int
	ids   []Identity
	procs []*process
	saves int

	acked   []map[ref]string  // by identity: versions that were acknowledged, and what was in them
	started []map[string]bool // by identity: states that were ever given to a save
	closed  []int             // by identity: highest epoch whose final end was acknowledged
}

func newWorld(t *rapid.T) *world {
	w := &world{
		t: t, store: newShared(), now: start, keep: rapid.IntRange(1, 3).Draw(t, "keep"),
		// Easily confused: of one the parts are those of the other, cut elsewhere.
		ids: []Identity{{"n", "a", "b/c", "0", "t"}, {"n", "a/b", "c", "0", "t"}},
	}
	for range w.ids {
		w.acked = append(w.acked, map[ref]string{})
		w.started = append(w.started, map[string]bool{})
	}
	w.closed = make([]int, len(w.ids))
	return w
}

func (w *world) chain(who int, store Store) *Chain {
	c, err := Open(store, w.ids[who], Options{Keep: w.keep, Now: func() time.Time { return w.now }})
	if err != nil {
		w.t.Fatal(err)
	}
	// A process that gets nowhere is given up.
	tries := 0
	c.pause = func(ctx context.Context, _ time.Duration) error {
		if tries++; tries > 50 {
			return errors.New("no time left")
		}
		return context.Cause(ctx)
	}
	return c
}

// troubled draws what goes wrong with the next operations of a process.
func (w *world) troubled(p *process) {
	p.store.plan = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) fault {
		return fault(rapid.SampledFrom([]int{0, 0, 0, 0, 0, 1, 2, 3, 4, 5}).Draw(t, "fault"))
	}), 0, 8).Draw(w.t, "plan")
	p.store.behind = rapid.SampledFrom([]int{0, 0, 0, 1, 2, 5}).Draw(w.t, "behind")
}

// calm ends what goes wrong, except death.
func (w *world) calm(p *process) {
	p.store.plan, p.store.behind = nil, 0
	if p.store.dead {
		w.procs = slices.DeleteFunc(w.procs, func(q *process) bool { return p == q })
	}
}

func (w *world) draw() *process {
	if len(w.procs) == 0 {
		w.t.Skip("no process")
	}
	return rapid.SampledFrom(w.procs).Draw(w.t, "process")
}

func (w *world) claims(*rapid.T) {
	p := &process{who: rapid.IntRange(0, len(w.ids)-1).Draw(w.t, "identity"), alloc: rapid.StringMatching("[abc]").Draw(w.t, "alloc")}
	p.store = &mem{shared: w.store}
	p.chain = w.chain(p.who, p.store)
	w.troubled(p)
	defer w.calm(p)
	highest := 0
	for v := range w.acked[p.who] {
		highest = max(highest, v.epoch)
	}
	s, _, err := p.chain.Claim(context.Background(), Owner{Alloc: p.alloc, Node: "n"})
	if err != nil {
		return
	}
	if s.Epoch() <= highest {
		w.t.Fatalf("claimed epoch %d, though %d had been claimed", s.Epoch(), highest)
	}
	p.session = s
	w.procs = append(w.procs, p)
}

func (w *world) saveIn(p *process) {
	w.saves++
	state := fmt.Sprintf("state %d of %d", w.saves, p.who)
	w.started[p.who][state] = true
	saved, err := p.session.Save(context.Background(), []byte(state), "interval")
	if err == nil {
		// A number is used again only where a later owner has deleted all there was.
		if was, ok := w.acked[p.who][saved.ref()]; ok && saved.Superseded == nil && saved.Prune == nil && p.store.behind == 0 {
			w.t.Fatalf("version %s was %q, and has been saved again", saved.ref(), was)
		}
		w.acked[p.who][saved.ref()] = state
	}
}

func (w *world) save(*rapid.T) {
	p := w.draw()
	w.troubled(p)
	defer w.calm(p)
	w.saveIn(p)
}

func (w *world) end(*rapid.T) {
	p := w.draw()
	final := rapid.Bool().Draw(w.t, "final")
	w.troubled(p)
	defer w.calm(p)
	if err := p.session.End(context.Background(), "drained", final); err == nil && final {
		w.closed[p.who] = max(w.closed[p.who], p.session.Epoch())
	}
}

func (w *world) resume(*rapid.T) {
	p := w.draw()
	p.store = &mem{shared: w.store}
	p.chain = w.chain(p.who, p.store)
	s, err := p.chain.Resume(p.session.Epoch(), Owner{Alloc: p.alloc})
	if err != nil {
		w.t.Fatal(err)
	}
	p.session = s
}

func (w *world) die(*rapid.T) {
	p := w.draw()
	p.store.dead = true
	w.calm(p)
}

func (w *world) land(*rapid.T) {
	if !w.store.land() {
		w.t.Skip("nothing is on its way")
	}
}

func (w *world) wait(*rapid.T) {
	w.store.lists = nil // no list is behind for that long
	w.now = w.now.Add(time.Duration(rapid.IntRange(1, 15).Draw(w.t, "minutes")) * time.Minute)
}

// check compares what would be restored with what has been acknowledged.
func (w *world) check(t *rapid.T) {
	for who := range w.ids {
		c := w.chain(who, &mem{shared: w.store})
		l, err := c.Latest(context.Background())
		if err != nil {
			t.Fatalf("latest: %v", err)
		}
		tree := newTree(c.prefix, w.store.names())
		if tree.closed() < w.closed[who] {
			t.Fatalf("the final end of epoch %d has been lost", w.closed[who])
		}

		// All whole versions: those that were acknowledged, and those that are there
		// although their answer was lost.
		var whole []ref
		for v := range w.acked[who] {
			whole = append(whole, v)
		}
		for _, v := range tree.versions() {
			if _, ok := w.acked[who][v]; !ok && tree.turns[v.epoch].data[v.seq] {
				whole = append(whole, v)
			}
		}
		slices.SortFunc(whole, func(a, b ref) int { return b.compare(a) })

		var want, got ref
		if len(whole) > 0 && whole[0].epoch > tree.closed() {
			want = whole[0]
		}
		if l.Checkpoint != nil {
			got = l.Checkpoint.ref()
			state := string(l.Checkpoint.Data)
			if acked, ok := w.acked[who][got]; ok && state != acked {
				t.Fatalf("version %s is %q, and was saved as %q", got, state, acked)
			}
			if !w.started[who][state] {
				t.Fatalf("version %s is %q, which nobody has saved there", got, state)
			}
		}
		if got != want {
			t.Fatalf("latest is %s, and not %s\nclosed: %d\nacknowledged: %v\nstore:\n%s",
				got, want, tree.closed(), w.acked[who], strings.Join(w.store.names(), "\n"))
		}
		// None of those that are to be kept has been lost.
		for i, v := range whole {
			if turn := tree.turns[v.epoch]; i < w.keep && (turn == nil || !turn.data[v.seq] || !turn.manifest[v.seq]) {
				t.Fatalf("version %s is among the newest %d, and has been deleted", v, w.keep)
			}
		}
	}
}

// tidy lets new owners come and go without trouble, and checks that nothing is
// left that nobody needs.
func (w *world) tidy(t *rapid.T) {
	for w.store.land() {
		w.check(t)
	}
	for who, id := range w.ids {
		p := &process{who: who, alloc: "last", store: &mem{shared: w.store}}
		p.chain = w.chain(who, p.store)
		var err error
		if p.session, _, err = p.chain.Claim(context.Background(), Owner{Alloc: "last"}); err != nil {
			t.Fatal(err)
		}
		for range w.keep + 1 {
			w.saveIn(p)
			w.now = w.now.Add(time.Hour)
			w.check(t)
		}
		tree := newTree(p.chain.prefix, w.store.names())
		for epoch, turn := range tree.turns {
			if len(turn.halves()) > 0 {
				t.Fatalf("half-written versions of epoch %d of %v are left: %v", epoch, id, turn.halves())
			}
		}
		if n := len(tree.versions()); n != w.keep {
			t.Fatalf("%d versions of %v are left, and not %d", n, id, w.keep)
		}
		if n := len(tree.turns); n > keepOwners+1 {
			t.Fatalf("%d epochs of %v are left", n, id)
		}
	}
}

// Whatever goes wrong, and whoever does something in between: what would be
// restored is the last version that was acknowledged, or a later one that only
// its saver does not know of.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"claim":  w.claims,
			"save":   w.save,
			"save2":  w.save,
			"save3":  w.save,
			"end":    w.end,
			"resume": w.resume,
			"die":    w.die,
			"land":   w.land,
			"wait":   w.wait,
			"":       w.check,
		})
		w.tidy(t)
	})
}
