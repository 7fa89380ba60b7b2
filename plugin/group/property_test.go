package group

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// Groups of any shape are restarted and stopped at any moments, task by task and
// whole. Nobody waits for ever, or for longer than it may; the order is kept
// wherever there was time and knowledge for it; and no group hook runs twice.
func TestGroup_AnyInterleaving(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		plenty := !drawOneIn(r, "short of time", 4)
		tasks := drawTasks(r, plenty)
		offline := drawOneIn(r, "offline", 4)
		type order struct {
			at    time.Duration
			tasks []string
		}
		var restarts []order
		for range rapid.SampledFrom([]int{0, 1, 2, 3}).Draw(r, "restarts") {
			o := order{at: drawTime(r, "at", 0, 110, 1000, 1210, 2900, 5000)}
			if drawOneIn(r, "single", 2) {
				o.tasks = []string{rapid.SampledFrom(tasks).Draw(r, "task").name}
			}
			restarts = append(restarts, o)
		}
		stopAt := drawTime(r, "stop at", 0, 200, 1100, 1500, 3010, 20000)

		var failure string
		synctest.Test(t, func(t *testing.T) {
			n := newNomad(t)
			n.offline = offline
			for _, tk := range tasks {
				n.add(tk)
			}
			n.start()
			n.settle()
			for _, o := range restarts {
				n.wg.Go(func() {
					time.Sleep(o.at)
					n.restart(o.tasks...)
				})
			}
			time.Sleep(stopAt)
			n.stop("updated")
			n.settle()
			failure = n.judge(plenty)
			if failure != "" {
				failure += "\n" + n.text()
			}
		})
		if failure != "" {
			r.Fatal(failure)
		}
	})
}

// drawTime draws one of a few durations in milliseconds: rapid's own integers are
// mostly small, and then everything happens at once.
func drawTime(r *rapid.T, label string, of ...int) time.Duration {
	return time.Duration(rapid.SampledFrom(of).Draw(r, label)) * time.Millisecond
}

func drawOneIn(r *rapid.T, label string, n int) bool {
	of := make([]bool, n)
	of[0] = true
	return rapid.SampledFrom(of).Draw(r, label)
}

// drawTasks draws a group that a plan's validation lets pass.
func drawTasks(r *rapid.T, plenty bool) []*task {
	var tasks []*task
	for i := range rapid.SampledFrom([]int{2, 3, 4, 5}).Draw(r, "tasks") {
		tk := &task{
			name: fmt.Sprintf("t%d", i),
			boot: drawTime(r, "boot", 0, 20, 310), takes: drawTime(r, "takes", 0, 40, 530, 2010),
			late: drawTime(r, "late", 0, 15, 130, 249), delay: drawTime(r, "delay", 0, 610),
			kill: drawTime(r, "kill", 0, 150, 1000, 3000),
		}
		if plenty {
			tk.kill = time.Hour
		}
		tk.Managed = !drawOneIn(r, "stock", 8)
		tk.Hook = rapid.SampledFrom([]string{"", "", "", "prestart", "prestart", "poststart", "poststop"}).Draw(r, "hook")
		tk.Sidecar = strings.HasSuffix(tk.Hook, "start") && !drawOneIn(r, "ephemeral", 4)
		tasks = append(tasks, tk)
	}
	if t := rapid.SampledFrom(tasks).Draw(r, "leader"); t.Hook == "" {
		t.Leader = drawOneIn(r, "has a leader", 4)
	}
	// Each names some of those before it in an order that respects Nomad's steps:
	// so there is no circle, and nothing that is impossible.
	order := rapid.Permutation(tasks).Draw(r, "order")
	slices.SortStableFunc(order, func(a, b *task) int { return a.step() - b.step() })
	if !drawOneIn(r, "no stop_after", 4) {
		for i, tk := range order {
			for _, before := range order[:i] {
				if tk.Managed && drawOneIn(r, "after", 2) {
					tk.StopAfter = append(tk.StopAfter, before.name)
				}
			}
		}
	}
	for _, e := range Events() {
		if t := rapid.SampledFrom(tasks).Draw(r, string(e)); t.Managed && drawOneIn(r, "declared", 2) {
			if t.Hooks == nil {
				t.Hooks = hooks()
			}
			t.Hooks[e] = hooks(e)[e]
		}
	}
	return tasks
}

// judge returns what has gone wrong.
func (n *nomad) judge(plenty bool) string {
	if err := n.plan().Validate(); err != nil {
		return fmt.Sprintf("the test's plan is refused: %v", err)
	}
	by := make(map[string]*task)
	declared := make(map[Event]bool)
	for _, t := range n.tasks {
		by[t.name] = t
		for e := range t.Hooks {
			declared[e] = true
		}
		if t.running && t.step() != stepPoststop {
			return fmt.Sprintf("%s runs on", t.name)
		}
	}
	wholeStop := false
	for _, s := range n.stops {
		t := by[s.task]
		wholeStop = wholeStop || s.whole && t.Managed
		for _, w := range s.report.Waits {
			if w.For > t.kill {
				return fmt.Sprintf("%s waited %s for %s, and its kill_timeout is %s", s.task, w.For, w.Task, t.kill)
			}
			if plenty && w.End == GivenUp {
				return fmt.Sprintf("%s gave up on %s", s.task, w.Task)
			}
		}
		if plenty {
			for _, before := range t.StopAfter {
				if failure := n.judgeOrder(s, by[before]); failure != "" {
					return failure
				}
			}
		}
	}
	for e, runs := range n.runs {
		if runs > 1 {
			return fmt.Sprintf("group hook %s ran %d times", e, runs)
		}
	}
	if !n.offline && wholeStop {
		for _, e := range []Event{OnCreated, OnStopping, OnStopped} {
			if declared[e] && n.runs[e] != 1 {
				return fmt.Sprintf("group hook %s ran %d times", e, n.runs[e])
			}
		}
	}
	return ""
}

// judgeOrder looks for stops of a predecessor that a stop should have waited for:
// those that were to be expected of a whole stop and, unless the predecessor had
// just been restarted, those under way when the stop was asked for or begun within
// the settle time.
func (n *nomad) judgeOrder(s stop, before *task) string {
	if !before.Managed {
		return ""
	}
	var missed []stop
	restarted := false
	for _, p := range n.stops {
		if p.task != before.name || p.ended <= s.asked {
			continue
		}
		switch {
		case p.ended <= s.went:
			restarted = true
		case s.whole && p.whole && !n.offline:
			missed = append(missed, p)
		case !restarted && p.asked < s.asked+250*time.Millisecond:
			missed = append(missed, p)
		}
	}
	if len(missed) == 0 {
		return ""
	}
	p := missed[0]
	return fmt.Sprintf("%s, asked to stop at %s, went on at %s, before %s, asked at %s, had stopped at %s",
		s.task, s.asked, s.went, p.task, p.asked, p.ended)
}
