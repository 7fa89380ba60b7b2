package agent

import (
	"fmt"
	"net/http"
	"strings"
)

// Stream is an answer of server-sent events. It is for one goroutine.
type Stream struct {
	w    http.ResponseWriter
	ctrl *http.ResponseController
	next int
}

// NewStream begins an answer of server-sent events: status 200 and the headers are
// sent at once.
func NewStream(w http.ResponseWriter) (*Stream, error) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would collect events otherwise
	s := &Stream{w: w, ctrl: http.NewResponseController(w), next: 1}
	w.WriteHeader(http.StatusOK)
	if err := s.ctrl.Flush(); err != nil {
		return nil, fmt.Errorf("begin stream: %w", err)
	}
	return s, nil
}

// Send sends an event with a value as JSON, numbered from 1. After an error the client
// has gone and the stream is over.
func (s *Stream) Send(event string, value any) error {
	data, err := marshal(value)
	if err != nil {
		return fmt.Errorf("send event %q: %w", event, err)
	}
	if strings.ContainsAny(event, "\r\n") {
		return fmt.Errorf("send event %q: the name is not one line", event)
	}
	// The data ends with a newline of its own.
	_, err = fmt.Fprintf(s.w, "id: %d\nevent: %s\ndata: %s\n", s.next, event, data)
	if err == nil {
		err = s.ctrl.Flush()
	}
	if err != nil {
		return fmt.Errorf("send event %q: %w", event, err)
	}
	s.next++
	return nil
}
