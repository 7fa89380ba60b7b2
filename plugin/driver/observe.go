package driver

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

// notes are what has happened since the last event of a transition, for the
// next one to tell: Nomad keeps ten events of a task, so a start has one and a
// stop has two.
type notes struct {
	mu    sync.Mutex // guards lines and spent
	lines []string
	spent []string
}

func (n *notes) add(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
}

func (n *notes) passed(tr lifecycle.Transition) {
	what := tr.From.String()
	if tr.From >= lifecycle.Stopping && tr.To == lifecycle.Stopped {
		what += " and ending" // the process, after its signal
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.spent = append(n.spent, fmt.Sprintf("%s %s", what, tr.Spent.Round(time.Millisecond)))
}

// take returns the notes as the end of an event's text, and forgets them.
func (n *notes) take() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	text := ""
	if len(n.spent) > 0 {
		text = " (" + strings.Join(n.spent, ", ") + ")"
	}
	if len(n.lines) > 0 {
		text += "; " + strings.Join(n.lines, "; ")
	}
	n.lines, n.spent = nil, nil
	return text
}

// observe is told every change of the task's state.
func (t *task) observe(tr lifecycle.Transition) {
	t.d.metrics.transition(tr)
	t.members.state(tr.To)
	if !t.spec.managed {
		return
	}
	t.notes.passed(tr)
	stop := tr.Status.Stop
	switch tr.To {
	case lifecycle.Running:
		t.tell(tr, "running")
	case lifecycle.Stopping:
		text := "stopping: " + stop.Reason
		if stop.Final {
			text += " for good"
		}
		if stop.Detail != "" {
			text += " (" + stop.Detail + ")"
		}
		if stop.Final && t.checkpoint != nil {
			t.notes.add("its state is not saved, and the next start is a cold one")
		}
		t.tell(tr, text)
	case lifecycle.Stopped:
		if tr.From < lifecycle.Starting {
			return // there was no process; Nomad says why the start has failed
		}
		text := "stopped"
		if tr.From < lifecycle.Stopping && stop != nil {
			text += ": " + stop.Reason + " (" + stop.Detail + ")"
		}
		t.tell(tr, text)
	}
}

// tell makes the event of a transition.
func (t *task) tell(tr lifecycle.Transition, text string) {
	annotations := map[string]string{"state": tr.To.String()}
	if stop := tr.Status.Stop; stop != nil {
		annotations["reason"] = stop.Reason
	}
	t.d.emit(t.cfg, annotations, "%s%s", text, t.notes.take())
}
