package httpapi

import (
	"fmt"
	"net/http"
	"strings"
)

// Stream is an answer of server-sent events. It is for one goroutine. After an error
// of a method the client has gone and the stream is over.
type Stream struct {
	w    http.ResponseWriter
	ctrl *http.ResponseController
	next int // ID of the next event; 0: they have none
}

// NewStream begins an answer of server-sent events without IDs. Status 200 and the
// headers are sent with the first of them.
func NewStream(w http.ResponseWriter) *Stream {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would collect events otherwise
	w.WriteHeader(http.StatusOK)
	return &Stream{w: w, ctrl: http.NewResponseController(w)}
}

// OpenStream begins an answer of server-sent events whose IDs count from 1: status
// 200 and the headers are sent at once.
func OpenStream(w http.ResponseWriter) (*Stream, error) {
	s := NewStream(w)
	s.next = 1
	if err := s.ctrl.Flush(); err != nil {
		return nil, fmt.Errorf("begin stream: %w", err)
	}
	return s, nil
}

// Send sends an event with a value as JSON.
func (s *Stream) Send(event string, value any) error {
	data, err := marshal(value)
	if err != nil {
		return fmt.Errorf("send event %q: %w", event, err)
	}
	if strings.ContainsAny(event, "\r\n") {
		return fmt.Errorf("send event %q: the name is not one line", event)
	}
	id := ""
	if s.next > 0 {
		id = fmt.Sprintf("id: %d\n", s.next)
	}
	// The data ends with a newline of its own.
	if err := s.write("%sevent: %s\ndata: %s\n", id, event, data); err != nil {
		return fmt.Errorf("send event %q: %w", event, err)
	}
	if s.next > 0 {
		s.next++
	}
	return nil
}

// Comment sends what clients skip, so that the connection is seen to be there.
func (s *Stream) Comment() error { return s.write(":\n\n") }

func (s *Stream) write(format string, args ...any) error {
	if _, err := fmt.Fprintf(s.w, format, args...); err != nil {
		return err
	}
	return s.ctrl.Flush()
}
