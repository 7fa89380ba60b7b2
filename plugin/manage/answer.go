package manage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Error is an answer other than success: a JSON object with error and, if one
// is to blame, the field or parameter.
type Error struct {
	Status     int           `json:"-"` // of HTTP
	Message    string        `json:"error"`
	Field      string        `json:"field,omitempty"`
	RetryAfter time.Duration `json:"-"` // when a new try may succeed; 0: not told
	cause      error
}

func (e *Error) Error() string {
	if e.Field != "" {
		return e.Field + ": " + e.Message
	}
	return e.Message
}

// Unwrap returns the error that Errorf was given with %w.
func (e *Error) Unwrap() error { return e.cause }

// Errorf makes an *Error. Field may be empty.
func Errorf(status int, field, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Status: status, Field: field, Message: err.Error(), cause: errors.Unwrap(err)}
}

// after says when a new try may succeed.
func (e *Error) after(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// appError makes an answer of what an App has returned.
func appError(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return Errorf(http.StatusGatewayTimeout, "", "not done in time: %w", err)
	default:
		return Errorf(http.StatusBadGateway, "", "%w", err)
	}
}

func writeError(w http.ResponseWriter, e *Error) {
	if e.RetryAfter > 0 {
		seconds := (e.RetryAfter + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	writeJSON(w, e.Status, e)
}

// writeJSON answers with a value as JSON and a newline.
func writeJSON(w http.ResponseWriter, code int, value any) {
	body, err := marshal(value)
	if err != nil {
		code, body = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be written as JSON"}`+"\n")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(body) //nolint:gosec // it is JSON, and fails only when nobody is left to be told
}

// marshal returns a value as a line of JSON, without the escapes that are for
// JSON within HTML: people read these answers.
func marshal(value any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(value)
	return b.Bytes(), err
}

// decode reads exactly one JSON value without unknown fields. The error has
// status 400.
func decode(body io.Reader, into any) *Error {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		return Errorf(http.StatusBadRequest, "", "there is more than one JSON value in the body")
	}
	var wrongType *json.UnmarshalTypeError
	// encoding/json has no type for this error.
	unknown, isUnknown := strings.CutPrefix(err.Error(), "json: unknown field ")
	switch {
	case errors.Is(err, io.EOF):
		return Errorf(http.StatusBadRequest, "", "the body is empty; a JSON object is expected")
	case isUnknown:
		return Errorf(http.StatusBadRequest, strings.Trim(unknown, `"`), "unknown field")
	case errors.As(err, &wrongType):
		return Errorf(http.StatusBadRequest, wrongType.Field, "is a JSON %s, which cannot be a %s", wrongType.Value, wrongType.Type)
	default:
		return Errorf(http.StatusBadRequest, "", "the body is not JSON: %w", err)
	}
}

// replicateRequest reads the body of a replicate.
func replicateRequest(body io.Reader) (delta int64, refusal *Error) {
	var req struct {
		Delta *int64 `json:"delta"`
	}
	if e := decode(body, &req); e != nil {
		return 0, e
	}
	if req.Delta == nil || *req.Delta == 0 {
		return 0, Errorf(http.StatusBadRequest, "delta", "say by how many the group is to grow, for example 1, or to shrink, for example -1")
	}
	return *req.Delta, nil
}

// emptyRequest refuses a body that says anything.
func emptyRequest(body io.Reader) *Error {
	data, err := io.ReadAll(body)
	if err != nil {
		return Errorf(http.StatusBadRequest, "", "read the body: %w", err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	return decode(bytes.NewReader(data), &struct{}{})
}
