package manage

import (
	"net/http"
	"time"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

// Names of server-sent events.
const (
	eventState = "state"
	eventSoon  = "stopping_soon" // a stop has been decided and has not begun
	eventEnd   = "end"           // of the stream: the task is destroyed
)

// sendEvents answers with app's status now and after each change, until the
// task is destroyed or the request ends. Each time the newest status is sent: a
// reader that takes its time misses those in between.
func sendEvents(w http.ResponseWriter, r *http.Request, app App, view func(lifecycle.Status) status) {
	s := httpapi.NewStream(w)
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	last := false
	for {
		st, changed := app.Status()
		// When the request ends the reader has gone, or the task is no longer
		// served: then it is told only if that was the end of the task.
		if last && st.State != lifecycle.Destroyed {
			return
		}
		name := eventState
		if st.Soon() {
			name = eventSoon
		}
		if s.Send(name, view(st)) != nil { // the reader has gone
			return
		}
		if st.State == lifecycle.Destroyed {
			_ = s.Send(eventEnd, struct{}{}) // nothing follows
			return
		}
		last = !await(s, changed, tick.C, r.Context().Done())
	}
}

// await sends comments until something changes. It reports false if the
// request has ended.
func await(s *httpapi.Stream, changed <-chan struct{}, tick <-chan time.Time, ended <-chan struct{}) bool {
	for {
		select {
		case <-changed:
			return true
		case <-ended:
			return false
		case <-tick:
			if s.Comment() != nil {
				return false
			}
		}
	}
}
