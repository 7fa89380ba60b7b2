package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// HTTPError is an answer other than success: a JSON object with error and, if one is
// to blame, the field or parameter.
type HTTPError struct {
	Status  int    `json:"-"`
	Message string `json:"error"`
	Field   string `json:"field,omitempty"`
}

func (e *HTTPError) Error() string {
	if e.Field != "" {
		return e.Field + ": " + e.Message
	}
	return e.Message
}

// Errorf makes an *HTTPError. Field may be empty.
func Errorf(status int, field, format string, args ...any) *HTTPError {
	return &HTTPError{Status: status, Field: field, Message: fmt.Sprintf(format, args...)}
}

// WriteError answers with an error: an *HTTPError, wrapped or not, with its own status,
// any other error with 500.
func WriteError(w http.ResponseWriter, err error) {
	var answer *HTTPError
	if !errors.As(err, &answer) {
		answer = Errorf(http.StatusInternalServerError, "", "%v", err)
	}
	WriteJSON(w, answer.Status, answer)
}

// WriteJSON answers with a value as JSON and a newline.
func WriteJSON(w http.ResponseWriter, status int, value any) {
	body, err := marshal(value)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be written as JSON"}`+"\n")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
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

// DecodeJSON reads the body of a request, exactly one JSON value, without unknown
// fields. The error is an *HTTPError with status 400.
func DecodeJSON(r *http.Request, into any) error {
	return ReadJSON(r.Body, into) // the server has limited its size
}

// ReadJSON is DecodeJSON for a body, or a part of one, that comes from elsewhere.
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
		return Errorf(http.StatusBadRequest, "", "the body is not JSON: %v", err)
	}
}
