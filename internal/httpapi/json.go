package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Error is an answer other than success: a JSON object with error and, if one is to
// blame, the field or parameter.
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

// After says when a new try may succeed. It returns e.
func (e *Error) After(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// WriteError answers with an error: an *Error, wrapped or not, with its own status,
// any other error with 500.
func WriteError(w http.ResponseWriter, err error) {
	var e *Error
	if !errors.As(err, &e) {
		e = Errorf(http.StatusInternalServerError, "", "%w", err)
	}
	if e.RetryAfter > 0 {
		seconds := (e.RetryAfter + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	WriteJSON(w, e.Status, e)
}

// WriteJSON answers with a value as JSON and a newline.
func WriteJSON(w http.ResponseWriter, status int, value any) {
	body, err := marshal(value)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be written as JSON"}`+"\n")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // it fails only when nobody is left to be told
}

// marshal returns a value as a line of JSON, without the escapes that are for JSON
// within HTML: people read these answers.
func marshal(value any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(value)
	return b.Bytes(), err
}

// ReadJSON reads exactly one JSON value without unknown fields. The error is an
// *Error with status 400.
func ReadJSON(body io.Reader, into any) error {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		return Errorf(http.StatusBadRequest, "", "more than one JSON value in the body")
	}
	var wrongType *json.UnmarshalTypeError
	// encoding/json has no type for this error.
	unknown, isUnknown := strings.CutPrefix(err.Error(), "json: unknown field ")
	switch {
	case errors.Is(err, io.EOF):
		return Errorf(http.StatusBadRequest, "", "the body is empty; a JSON value is expected")
	case isUnknown:
		return Errorf(http.StatusBadRequest, strings.Trim(unknown, `"`), "unknown field")
	case errors.As(err, &wrongType):
		return Errorf(http.StatusBadRequest, wrongType.Field, "is a JSON %s, which cannot be a %s", wrongType.Value, wrongType.Type)
	default:
		return Errorf(http.StatusBadRequest, "", "the body is not JSON: %w", err)
	}
}
