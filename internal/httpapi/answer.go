package httpapi

import (
	"errors"
	"net/http"
	"time"
)

// answer gives each write a deadline of its own and remembers the status. Writers
// without deadlines, as tests have them, stay so.
type answer struct {
	http.ResponseWriter
	ctrl    *http.ResponseController // of the ResponseWriter
	timeout time.Duration
	code    int // 0: not yet written
}

// readUntil sets the deadline of the request's body; the zero time takes it away.
func (w *answer) readUntil(t time.Time) *Error {
	if err := w.ctrl.SetReadDeadline(t); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return Errorf(http.StatusInternalServerError, "", "limit the time of the body: %w", err)
	}
	return nil
}

// extend moves the deadline of writes.
func (w *answer) extend() { _ = w.ctrl.SetWriteDeadline(time.Now().Add(w.timeout)) }

// written takes the deadline away: HTTP/2 resets a stream by it even if nothing is being
// written.
func (w *answer) written() { _ = w.ctrl.SetWriteDeadline(time.Time{}) }

func (w *answer) WriteHeader(code int) {
	if w.code == 0 && code >= http.StatusOK {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code) // it is sent with what follows
}

func (w *answer) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	w.extend()
	defer w.written()
	return w.ResponseWriter.Write(b)
}

// FlushError is what http.ResponseController.Flush calls.
func (w *answer) FlushError() error {
	w.extend()
	defer w.written()
	return w.ctrl.Flush()
}

// Flush makes it an http.Flusher.
func (w *answer) Flush() { _ = w.FlushError() } // the interface has no error

// Unwrap is for http.ResponseController.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
