package group

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
)

// nomad plays Nomad and the plugin processes for one allocation: the order in
// which it asks for starts and stops is Nomad's, and what is done then is what
// the driver does with this package. It is to be used in a bubble of synctest.
type nomad struct {
	t       *testing.T
	dir     string
	offline bool // its API does not answer
	hook    time.Duration
	begin   time.Time
	tasks   []*task
	wg      sync.WaitGroup // of what is not waited for by Nomad

	mu    sync.Mutex // guards the fields below, and of the tasks running and group
	log   []entry
	stops []stop
	runs  map[Event]int // of hooks, to their end
	whole bool          // the allocation has been told to stop
}

type task struct {
	name string
	PlanTask
	boot  time.Duration // from start to ready
	takes time.Duration // from the signal to the end
	kill  time.Duration // kill_timeout
	delay time.Duration // shutdown_delay; not of restarts, as in Nomad
	late  time.Duration // by how much a restart asks for its stop later than for others

	starting chan struct{} // holds one: the start that is under way, which Nomad cannot interrupt
	ending   chan struct{} // holds one: the stop that is under way
	group    *Group
	running  bool // for Nomad
}

type entry struct {
	at   time.Duration
	text string
}

// stop is one stop of a task.
type stop struct {
	task               string
	whole              bool
	asked, went, ended time.Duration // by Nomad; to the task's process; of that
	report             Report
}

func newNomad(t *testing.T) *nomad {
	return &nomad{
		t: t, dir: Dir(t.TempDir()), hook: 350 * time.Millisecond,
		begin: time.Now(), runs: make(map[Event]int),
	}
}

func (n *nomad) add(t *task) {
	t.starting, t.ending = make(chan struct{}, 1), make(chan struct{}, 1)
	n.tasks = append(n.tasks, t)
}

func (n *nomad) since() time.Duration { return time.Since(n.begin) }

func (n *nomad) note(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log = append(n.log, entry{n.since(), fmt.Sprintf(format, args...)})
}

func (n *nomad) plan() Plan {
	plan := make(Plan)
	for _, t := range n.tasks {
		plan[t.name] = t.PlanTask
	}
	return plan
}

// facts is what the API says, if it answers.
func (n *nomad) facts(whole bool) Facts {
	if n.offline {
		return Facts{}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	f := Facts{Plan: n.plan(), Whole: whole, Running: make(map[string]bool)}
	for _, t := range n.tasks {
		if !t.Managed {
			f.Running[t.name] = t.running
		}
	}
	return f
}

func (n *nomad) setRunning(t *task, running bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t.running = running
}

func (n *nomad) member(t *task) *Group {
	n.mu.Lock()
	defer n.mu.Unlock()
	return t.group
}

// which returns the tasks of which pick says so.
func (n *nomad) which(pick func(*task) bool) []*task {
	n.mu.Lock()
	defer n.mu.Unlock()
	var picked []*task
	for _, t := range n.tasks {
		if pick(t) {
			picked = append(picked, t)
		}
	}
	return picked
}

func together(tasks []*task, do func(*task)) {
	var wg sync.WaitGroup
	for _, t := range tasks {
		wg.Go(func() { do(t) })
	}
	wg.Wait()
}

// start starts all tasks in Nomad's order, and returns when all run that are to.
func (n *nomad) start() {
	for _, hook := range []string{"prestart", "", "poststart"} {
		together(n.which(func(t *task) bool { return t.Hook == hook }), n.startTask)
	}
}

// startTask returns when the task runs, or has ended if it is one that ends.
func (n *nomad) startTask(t *task) {
	if n.startDriver(t) && t.Hook != "" && !t.Sidecar {
		time.Sleep(t.takes)
		n.end(t, false)
	}
}

func (n *nomad) startDriver(t *task) bool {
	t.starting <- struct{}{}
	defer func() { <-t.starting }()
	if !n.mayStart(t) {
		return false
	}
	if !t.Managed {
		time.Sleep(t.boot)
		n.setRunning(t, true)
		n.note("%s runs", t.name)
		for _, other := range n.which(func(o *task) bool { return o.Managed && o.running }) {
			n.wg.Go(func() { n.once(other, OnRunning, false) })
		}
		return true
	}
	g, err := Join(n.dir, Member{
		Task: t.name, Driver: t.Driver, State: Starting, StopAfter: t.StopAfter, Hooks: t.Hooks,
	}, time.Now, hclog.NewNullLogger())
	if err != nil {
		n.note("%s is refused: %v", t.name, err)
		return false
	}
	n.mu.Lock()
	t.group = g
	n.mu.Unlock()
	n.once(t, OnCreated, false)
	time.Sleep(t.boot)
	must.NoError(n.t, g.Running())
	n.note("%s runs", t.name)
	n.setRunning(t, true)
	n.wg.Go(func() { n.once(t, OnRunning, false) })
	return true
}

// stopTask returns when the task has ended.
func (n *nomad) stopTask(t *task, reason string, whole bool) {
	if whole {
		time.Sleep(t.delay)
		t.starting <- struct{}{}
		<-t.starting
	} else {
		time.Sleep(t.late)
	}
	if !t.isRunning(n) {
		return
	}
	n.note("%s is asked to stop: %s", t.name, reason)
	if t.Managed {
		must.NoError(n.t, n.member(t).Stopping(reason, whole && !n.offline))
	}
	t.ending <- struct{}{}
	defer func() { <-t.ending }()
	if !t.isRunning(n) {
		return // another stop has ended it
	}
	s := stop{task: t.name, whole: whole, asked: n.since()}
	if t.Managed {
		g := n.member(t)
		ctx, cancel := context.WithTimeout(context.Background(), t.kill)
		defer cancel()
		n.once(t, OnStopping, whole)
		var err error
		s.report, err = g.AwaitPredecessors(ctx, n.facts(whole))
		must.NoError(n.t, err)
		if text := s.report.String(); text != "" {
			n.note("%s %s", t.name, text)
		}
	}
	s.went = n.since()
	time.Sleep(t.takes)
	s.ended = n.since()
	n.mu.Lock()
	n.stops = append(n.stops, s)
	n.mu.Unlock()
	n.end(t, whole)
}

// end is the end of the task's process.
func (n *nomad) end(t *task, whole bool) {
	n.setRunning(t, false)
	n.note("%s has stopped", t.name)
	if t.Managed {
		must.NoError(n.t, n.member(t).Stopped())
		n.once(t, OnStopped, whole)
	}
}

// once runs a group hook if it is this task's turn.
func (n *nomad) once(t *task, e Event, whole bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	_, err := n.member(t).Once(ctx, e, n.facts(whole), func(_ context.Context, d Declaration) error {
		n.note("group hook %s of %s begins", d.Event, d.Task)
		time.Sleep(n.hook)
		n.note("group hook %s of %s has ended", d.Event, d.Task)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.runs[d.Event]++
		return nil
	})
	if err != nil {
		n.note("%s: %v", t.name, err)
	}
}

func (t *task) isRunning(n *nomad) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return t.running
}

// restart stops tasks at once and starts each again when it has stopped; all
// that run if none is named.
func (n *nomad) restart(names ...string) {
	together(n.which(func(t *task) bool {
		return t.running && (len(names) == 0 || slices.Contains(names, t.name))
	}), func(t *task) {
		n.stopTask(t, "restarted", false)
		time.Sleep(10 * time.Millisecond)
		n.startTask(t)
	})
}

func (n *nomad) mayStart(t *task) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.whole || t.step() == stepPoststop
}

// stop ends the allocation: the leader, all others, the sidecars, and then the
// poststop tasks start.
func (n *nomad) stop(reason string) {
	n.mu.Lock()
	n.whole = true
	n.mu.Unlock()
	for step := stepLeader; step <= stepSidecar; step++ {
		together(n.which(func(t *task) bool { return t.step() == step }), func(t *task) { n.stopTask(t, reason, true) })
	}
	together(n.which(func(t *task) bool { return t.step() == stepPoststop }), n.startTask)
}

// settle ends when nothing is under way.
func (n *nomad) settle() { n.wg.Wait() }

// text is what has happened, in a fixed order.
func (n *nomad) text() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	slices.SortStableFunc(n.log, func(a, b entry) int {
		if a.at != b.at {
			return int(a.at - b.at)
		}
		return strings.Compare(a.text, b.text)
	})
	var out strings.Builder
	for _, e := range n.log {
		fmt.Fprintf(&out, "%9.3fs  %s\n", e.at.Seconds(), e.text)
	}
	return out.String()
}
