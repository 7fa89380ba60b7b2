// Package page writes the status pages of the agent queue: HTML that needs no script, and
// can be read without its style as well.
package page

import (
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

//go:embed index.html queue.html layout.html
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

// Broker is who tells.
type Broker struct {
	Address string
	Trouble string // why it cannot serve; empty: it can
	At      time.Time
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
type Pages struct{ index, queue *template.Template }

// New reads the templates.
func New() (*Pages, error) {
	base := template.New("").Funcs(template.FuncMap{
		"ago": ago, "rate": rate, "thousands": thousands, "input": input, "state": state, "sum": sum,
	})
	parse := func(file string) (*template.Template, error) {
		t, err := template.Must(base.Clone()).ParseFS(files, "layout.html", file)
		if err != nil {
			return nil, err
		}
		return t.Lookup("layout.html"), nil
	}
	p := &Pages{}
	var err error
	if p.index, err = parse("index.html"); err != nil {
		return nil, err
	}
	p.queue, err = parse("queue.html")
	return p, err
}

// Index writes the page of all queues.
func (p *Pages) Index(w io.Writer, b Broker, queues []Queue) error {
	return p.index.Execute(w, struct {
		Title  string
		Broker Broker
		Queues []Queue
	}{"Queues", b, queues})
}

// Queue writes the page of a queue.
func (p *Pages) Queue(w io.Writer, b Broker, q Queue) error {
	return p.queue.Execute(w, struct {
		Title  string
		Broker Broker
		Queue  Queue
	}{"Queue " + q.Name(), b, q})
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

// ago writes milliseconds as people say them.
func ago(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case d <= 0:
		return "–"
	case d < time.Second:
		return d.String()
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	}
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
		return thousands(v) + "/s"
	}
}

// thousands writes a number with thin spaces between thousands.
func thousands(n any) string {
	text := fmt.Sprint(n)
	if f, is := n.(float64); is {
		text = strconv.FormatFloat(f, 'f', 0, 64)
	}
	var b strings.Builder
	for i, digit := range text {
		if i > 0 && (len(text)-i)%3 == 0 {
			b.WriteRune('\u2009')
		}
		b.WriteRune(digit)
	}
	return b.String()
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
