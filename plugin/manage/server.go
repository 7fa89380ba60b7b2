package manage

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/net/netutil"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// Limits of every server of this package.
const (
	maxBody    = 64 << 10 // bytes of a request's body
	maxHeader  = 16 << 10 // bytes of its header
	maxConns   = 64       // connections; further ones wait to be accepted
	maxStreams = 32       // answers that may take long; further ones get 503

	ioTimeout   = 10 * time.Second // for a header or body to come, and for each write to be taken
	idleTimeout = time.Minute
	grace       = 2 * time.Second // for requests to end after their context has
)

// server is what all requests pass through, whoever they are for.
type server struct {
	httpapi.Handler
	access  *access     // who may ask; nil: whoever has reached the socket
	tls     *tls.Config // nil: no TLS
	streams chan struct{}
}

func newServer(log hclog.Logger) *server {
	s := &server{streams: make(chan struct{}, maxStreams)}
	s.Handler = httpapi.Handler{
		Mux:     http.NewServeMux(),
		Log:     log,
		Refuse:  s.refuse,
		NoHead:  true,
		MaxBody: maxBody,
		Timeout: ioTimeout,
		Details: "the log of the Nomad agent",
	}
	return s
}

// serve answers on ln until ctx ends, and closes it. Requests then have a short
// time to end; one that ignores the end of its context is left behind. The error is nil unless the listener has failed before.
func (s *server) serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: ioTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		TLSConfig:         s.tls,
		// What it reports is the doing of clients.
		ErrorLog:  s.Log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		Protocols: new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	served := make(chan error, 1)
	go func() {
		limited := netutil.LimitListener(ln, maxConns)
		if s.tls != nil {
			served <- srv.ServeTLS(limited, "", "")
			return
		}
		served <- srv.Serve(limited)
	}()
	var failed error
	select {
	case failed = <-served:
		failed = fmt.Errorf("serve: %w", failed)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if srv.Shutdown(end) != nil { // a request did not end in time, or the listener is closed already
		_ = srv.Close() // the same
	}
	if failed == nil {
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			failed = fmt.Errorf("serve: %w", err)
		}
	}
	return failed
}

// refuse says who may not ask, and what is not asked for.
func (s *server) refuse(w http.ResponseWriter, r *http.Request) *httpapi.Error {
	if s.access != nil {
		if e := s.access.check(r); e != nil {
			return e
		}
	}
	if r.Method == http.MethodHead { // the mux would take it for GET, also of streams
		w.Header().Set("Allow", "GET, POST")
		return httpapi.Errorf(http.StatusMethodNotAllowed, "", "HEAD is not possible here")
	}
	return nil
}

// stream takes one of the places for long answers. The caller calls done.
func (s *server) stream() (done func(), refusal *httpapi.Error) {
	select {
	case s.streams <- struct{}{}:
		return func() { <-s.streams }, nil
	default:
		return nil, httpapi.Errorf(http.StatusServiceUnavailable, "", "there are %d streams already", maxStreams).After(time.Second)
	}
}
