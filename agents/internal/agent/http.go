package agent

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// server makes the HTTP server of an address. It has no timeout for a whole request
// or answer, because streams go on for long; httpapi.Handler bounds their parts.
func (a *Agent) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: a.opts.IOTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		// What it reports is the doing of clients.
		ErrorLog: a.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
}

// handler is what all requests of the API pass through.
func (a *Agent) handler() *httpapi.Handler {
	return &httpapi.Handler{
		Mux: a.mux,
		Log: a.log,
		Refuse: func(_ http.ResponseWriter, r *http.Request) *httpapi.Error {
			return a.access.check(r)
		},
		Answered: func(r *http.Request, route string, status int, took time.Duration) {
			a.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
			a.log.Debug("request", "method", r.Method, "path", r.URL.Path, "status", status, "took", took)
		},
		MaxBody: a.opts.MaxBody,
		Timeout: a.opts.IOTimeout,
		Details: "the agent's log",
	}
}

// serveHealth answers 200 when the agent is ready, and else 503 with the reason.
func (a *Agent) serveHealth(w http.ResponseWriter, _ *http.Request) {
	reason := ""
	select {
	case <-a.draining:
		reason = "draining"
	default:
		if a.opts.Ready != nil {
			if err := a.opts.Ready(); err != nil {
				reason = err.Error()
			}
		}
	}
	status := http.StatusOK
	if reason != "" {
		status = http.StatusServiceUnavailable
	}
	httpapi.WriteJSON(w, status, struct {
		Ready   bool   `json:"ready"`
		Reason  string `json:"reason,omitempty"`
		Version string `json:"version,omitempty"`
	}{reason == "", strings.TrimSpace(reason), a.opts.Version})
}

// servePrestop is a prestop hook of the lifecycle drivers: it begins the drain and
// answers when it has ended. If the caller leaves, the drain goes on.
func (a *Agent) servePrestop(w http.ResponseWriter, r *http.Request) {
	a.log.Info("draining", "cause", "prestop hook")
	a.beginDrain()
	select {
	case <-r.Context().Done():
	case <-a.drained:
	}
	select {
	case <-a.drained: // perhaps both: requests end right after the drain of a signal
	default:
		return
	}
	if a.drainErr != nil {
		status := http.StatusInternalServerError
		if errors.Is(a.drainErr, context.DeadlineExceeded) {
			status = http.StatusServiceUnavailable
		}
		httpapi.WriteError(w, httpapi.Errorf(status, "", "drain: %v", a.drainErr))
		return
	}
	httpapi.WriteJSON(w, http.StatusOK, struct {
		Drained bool `json:"drained"`
	}{true})
}
