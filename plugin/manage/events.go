package manage

import (
	"fmt"
	"net/http"
	"time"

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
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would collect events otherwise
	w.WriteHeader(http.StatusOK)
	s := sse{w: w, ctrl: http.NewResponseController(w)}
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
		if s.send(name, view(st)) != nil { // the reader has gone
			return
		}
		if st.State == lifecycle.Destroyed {
			_ = s.send(eventEnd, struct{}{}) // nothing follows
			return
		}
		last = !s.await(changed, tick.C, r.Context().Done())
	}
}

type sse struct {
	w    http.ResponseWriter
	ctrl *http.ResponseController
}

// await sends comments until something changes. It reports false if the
// request has ended.
func (s sse) await(changed <-chan struct{}, tick <-chan time.Time, ended <-chan struct{}) bool {
	for {
		select {
		case <-changed:
			return true
		case <-ended:
			return false
		case <-tick:
			_, err := fmt.Fprint(s.w, ":\n\n")
			if err == nil {
				err = s.ctrl.Flush()
			}
			if err != nil {
				return false
			}
		}
	}
}

func (s sse) send(event string, value any) error {
	data, err := marshal(value) // it ends with a newline of its own
	if err != nil {
		return fmt.Errorf("send event %q: %w", event, err)
	}
	if _, err := fmt.Fprintf(s.w, "event: %s\ndata: %s\n", event, data); err != nil {
		return fmt.Errorf("send event %q: %w", event, err)
	}
	return s.ctrl.Flush()
}
