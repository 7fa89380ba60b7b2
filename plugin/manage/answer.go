package manage

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// appError makes an answer of what an App has returned.
func appError(err error) *httpapi.Error {
	var e *httpapi.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return httpapi.Errorf(http.StatusGatewayTimeout, "", "not done in time: %w", err)
	default:
		return httpapi.Errorf(http.StatusBadGateway, "", "%w", err)
	}
}

// replicateRequest reads the body of a replicate. The error is an *httpapi.Error.
func replicateRequest(body io.Reader) (delta int64, err error) {
	var req struct {
		Delta *int64 `json:"delta"`
	}
	if err := httpapi.ReadJSON(body, &req); err != nil {
		return 0, err
	}
	if req.Delta == nil || *req.Delta == 0 {
		return 0, httpapi.Errorf(http.StatusBadRequest, "delta", "say by how many the group is to grow, for example 1, or to shrink, for example -1")
	}
	return *req.Delta, nil
}

// emptyRequest refuses a body that says anything. The error is an *httpapi.Error.
func emptyRequest(body io.Reader) error {
	data, err := io.ReadAll(body)
	if err != nil {
		return httpapi.Errorf(http.StatusBadRequest, "", "read the body: %w", err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	return httpapi.ReadJSON(bytes.NewReader(data), &struct{}{})
}
