package server

import (
	"errors"
	"net/http"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/page"
	queuepage "github.com/nomad-patterns/nomad-patterns/agents/queue/page"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// shownDead is how many dead letters the page of a queue shows.
const shownDead = 20

// about is what a page says of this broker.
func (s *Server) about() page.Agent {
	b := page.Agent{Kind: "broker", Address: s.address, At: time.Now()}
	if err := s.Ready(); err != nil {
		b.Trouble = err.Error()
	}
	return b
}

// indexPage shows all queues.
func (s *Server) indexPage(w http.ResponseWriter, r *http.Request) {
	var shown []queuepage.Queue
	for _, st := range s.view(r.Context(), s.broker.Queues(), false) {
		shown = append(shown, queuepage.Queue{Overview: st, Rates: s.history.rates(st.Queue)})
	}
	b, err := s.pages.Index(s.about(), shown)
	s.writePage(w, b, err)
}

// queuePage shows a queue.
func (s *Server) queuePage(w http.ResponseWriter, hr *http.Request) {
	name := hr.PathValue("queue")
	all := s.view(hr.Context(), []string{name}, false)
	if len(all) == 0 {
		s.fail(w, errors.Join(queue.CheckName("queue", name), queue.ErrUnknownQueue), false)
		return
	}
	q := queuepage.Queue{Overview: all[0], Rates: s.history.rates(name)}
	r := &request{Request: hr, w: w, queue: name}
	q.Schedules, q.ScheduleError = s.shownSchedules(r, q.Shards)
	if q.Dead > 0 {
		dead, err := s.deadLetters(r, q.Config.Shards, queue.ID{}, shownDead)
		q.Letters, q.More = dead.Dead, q.Dead > len(dead.Dead)
		if err != nil {
			q.Error = err.Error()
		}
	}
	b, err := s.pages.Queue(s.about(), q)
	s.writePage(w, b, err)
}

// shownSchedules reads those of the shards that have answered before, so that nobody waits
// for the others once more.
func (s *Server) shownSchedules(r *request, shards []queue.ShardStatus) (list []queue.Schedule, trouble string) {
	var ks []int
	for _, sh := range shards {
		if sh.Error == "" {
			ks = append(ks, sh.Shard)
		} else {
			trouble = sh.Error
		}
	}
	all, err := s.schedules(r, ks)
	if err != nil {
		trouble = err.Error()
	}
	return all.Recurring, trouble
}

// writePage sends what was written without a mistake.
func (s *Server) writePage(w http.ResponseWriter, b []byte, err error) {
	if err != nil {
		s.fail(w, err, false)
		return
	}
	page.Write(w, b)
}
