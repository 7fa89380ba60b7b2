// Package page writes the status pages of the agent queue: HTML that needs no script, and
// can be read without its style as well.
package page

import (
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/page"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

//go:embed index.html queue.html
var files embed.FS

// Rates are per second, over the last minute or less.
type Rates struct {
	Over     time.Duration // 0: nothing is known yet
	Enqueued float64
	Stages   map[string]StageRates
}

// StageRates are those of a stage.
type StageRates struct{ Done, Failed, Lost float64 }

// Done is the rate of all stages together.
func (r Rates) Done() (sum float64) {
	for _, s := range r.Stages {
		sum += s.Done
	}
	return sum
}

// Queue is a queue as it is shown.
type Queue struct {
	queue.Overview
	Rates   Rates
	Letters []queue.DeadLetter // only on its own page: the first dead ones
	More    bool               // there are more of them
	Error   string             // why they cannot be shown
	// Schedules are only on its own page as well.
	Schedules     []queue.Schedule
	ScheduleError string
}

// Pages has the templates.
type Pages struct{ index, queue *page.Template }

// New reads the templates.
func New() (*Pages, error) {
	funcs := template.FuncMap{"rate": rate, "input": input, "state": state, "sum": sum}
	p := &Pages{}
	var err error
	if p.index, err = page.Parse(files, "index.html", funcs); err != nil {
		return nil, err
	}
	p.queue, err = page.Parse(files, "queue.html", funcs)
	return p, err
}

// Index makes the page of all queues.
func (p *Pages) Index(a page.Agent, queues []Queue) ([]byte, error) {
	return p.index.Execute(struct {
		Title  string
		Agent  page.Agent
		Queues []Queue
	}{"Queues", a, queues})
}

// Queue makes the page of a queue.
func (p *Pages) Queue(a page.Agent, q Queue) ([]byte, error) {
	return p.queue.Execute(struct {
		Title string
		Agent page.Agent
		Queue Queue
	}{"Queue " + q.Name(), a, q})
}

// Name is the queue's.
func (q Queue) Name() string { return q.Queue }

// state says in a word how a queue stands.
func state(q Queue) string {
	var words []string
	for _, w := range []struct {
		is   bool
		word string
	}{
		{q.Finished, "finished"},
		{q.Sealed && !q.Finished, "sealed"},
		{q.Paused, "paused"},
	} {
		if w.is {
			words = append(words, w.word)
		}
	}
	for _, sh := range q.Shards {
		if sh.Error != "" {
			return strings.Join(append(words, "incomplete"), ", ")
		}
	}
	if words == nil {
		return "open"
	}
	return strings.Join(words, ", ")
}

// sum adds the items of all stages up.
func sum(q Queue) (all queue.StageStatus) {
	for _, st := range q.Stages {
		all.Ready += st.Ready
		all.Delayed += st.Delayed
		all.Waiting += st.Waiting
		all.InFlight += st.InFlight
		all.Held += st.Held
		all.Done += st.Done
		all.Failed += st.Failed
		all.Lost += st.Lost
		all.Cancelled += st.Cancelled
	}
	return all
}

// rate writes a rate, or a dash if it is not known yet.
func rate(r Rates, v float64) string {
	switch {
	case r.Over == 0:
		return "–"
	case v == 0:
		return "0/s"
	case v < 10:
		return strconv.FormatFloat(v, 'f', 2, 64) + "/s"
	default:
		return page.Thousands(v) + "/s"
	}
}

// input is what an item is about.
func input(raw json.RawMessage) string {
	var it queue.Item
	if json.Unmarshal(raw, &it) != nil {
		return "?"
	}
	if n := len(it.Inputs); n > 0 {
		return fmt.Sprintf("%s and %d more", it.Inputs[0], n-1)
	}
	return it.Input
}
