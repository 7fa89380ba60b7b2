package agent

import (
	"context"
	"errors"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

func TestSignalDrains(t *testing.T) {
	begun, proceed := make(chan struct{}), make(chan struct{})
	r := start(t, Options{
		Ready: func() error { return errors.New("no leader") },
		Drain: func(context.Context) error { close(begun); <-proceed; return nil },
	}, map[string]http.HandlerFunc{
		"GET /stream": func(w http.ResponseWriter, r *http.Request) {
			if _, err := httpapi.OpenStream(w); err != nil {
				t.Error(err)
			}
			<-r.Context().Done() // the end of the agent
		},
	})
	stream, err := r.http.Get(r.url + "/stream")
	must.NoError(t, err)
	code, _, body := r.do(t, "GET", "/v1/health", "")
	must.Eq(t, 503, code)
	must.Eq(t, `{"ready":false,"reason":"no leader"}`, body)

	r.signals <- syscall.SIGTERM
	receive(t, begun)
	receive(t, r.Draining())
	// It still answers while it drains.
	code, _, body = r.do(t, "GET", "/v1/health", "")
	must.Eq(t, 503, code)
	must.Eq(t, `{"ready":false,"reason":"draining"}`, body)
	r.signals <- syscall.SIGHUP // means nothing any more
	close(proceed)
	must.NoError(t, r.ended(t))
	must.Eq(t, ExitOK, ExitCode(nil))
	must.NoError(t, stream.Body.Close())
}

func TestContextDrains(t *testing.T) {
	r := start(t, Options{}, nil)
	r.stop()
	must.NoError(t, r.ended(t))
}

func TestDrainFails(t *testing.T) {
	broken := errors.New("broken")
	r := start(t, Options{Drain: func(context.Context) error { return broken }}, nil)
	r.signals <- syscall.SIGINT
	err := r.ended(t)
	must.ErrorIs(t, err, broken)
	must.Eq(t, ExitNotDrained, ExitCode(err))
}

func TestDrainDeadline(t *testing.T) {
	r := start(t, Options{
		DrainTimeout: 10 * time.Millisecond,
		Drain:        func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	}, nil)
	r.signals <- syscall.SIGTERM
	err := r.ended(t)
	must.ErrorIs(t, err, context.DeadlineExceeded)
	must.Eq(t, ExitNotDrained, ExitCode(err))
}

// TestDrainHangs: a drain that does not heed its context does not keep the agent.
func TestDrainHangs(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	r := start(t, Options{
		DrainTimeout: 10 * time.Millisecond,
		Drain:        func(context.Context) error { <-hang; return nil },
	}, nil)
	r.signals <- syscall.SIGTERM
	must.EqError(t, r.ended(t), "not drained within 10ms")
}

func TestSecondSignal(t *testing.T) {
	begun, cut := make(chan struct{}), make(chan struct{})
	r := start(t, Options{
		DrainTimeout: time.Hour,
		Drain:        func(ctx context.Context) error { close(begun); <-ctx.Done(); close(cut); return nil },
	}, nil)
	r.signals <- syscall.SIGTERM
	receive(t, begun)
	r.signals <- syscall.SIGINT
	err := r.ended(t)
	must.EqError(t, err, "not drained: interrupt for the second time")
	must.Eq(t, ExitNotDrained, ExitCode(err))
	receive(t, cut)
}

func TestPrestop(t *testing.T) {
	drains := 0
	r := start(t, Options{Drain: func(context.Context) error { drains++; return nil }}, nil)
	// What the lifecycle drivers send.
	hook := `{"event":"prestop","deadline":"2026-11-23T06:40:22.1Z","attempt":1,"job":"shop"}`
	for range 2 {
		code, _, body := r.do(t, "POST", "/lifecycle/prestop", hook)
		must.Eq(t, 200, code)
		must.Eq(t, `{"drained":true}`, body)
	}
	// It is served on until it is ended, and then does not drain again.
	code, _, _ := r.do(t, "GET", "/v1/health", "")
	must.Eq(t, 503, code)
	r.signals <- syscall.SIGTERM
	must.NoError(t, r.ended(t))
	must.Eq(t, 1, drains)
}

func TestPrestopFails(t *testing.T) {
	r := start(t, Options{Drain: func(context.Context) error { return errors.New("broken") }}, nil)
	code, _, body := r.do(t, "POST", "/lifecycle/prestop", "")
	must.Eq(t, 500, code)
	must.Eq(t, `{"error":"drain: broken"}`, body)
	r.signals <- syscall.SIGTERM
	must.EqError(t, r.ended(t), "not drained: broken")
}

// TestPrestopDeadline: that there was not time enough is no mistake of the agent.
func TestPrestopDeadline(t *testing.T) {
	r := start(t, Options{
		DrainTimeout: 10 * time.Millisecond,
		Drain:        func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	}, nil)
	code, _, body := r.do(t, "POST", "/lifecycle/prestop", "")
	must.Eq(t, 503, code)
	must.Eq(t, `{"error":"drain: context deadline exceeded"}`, body)
	r.signals <- syscall.SIGTERM
	must.ErrorIs(t, r.ended(t), context.DeadlineExceeded)
}

// TestPrestopAnswersAtTheEnd: the hook is answered although the agent ends right after
// the drain.
func TestPrestopAnswersAtTheEnd(t *testing.T) {
	begun, proceed := make(chan struct{}), make(chan struct{})
	r := start(t, Options{Drain: func(context.Context) error { close(begun); <-proceed; return nil }}, nil)
	codes := make(chan int, 1)
	go func() {
		resp, err := r.http.Post(r.url+"/lifecycle/prestop", "application/json", nil)
		if err != nil {
			t.Error(err)
			close(codes)
			return
		}
		codes <- resp.StatusCode
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	}()
	receive(t, begun)
	r.signals <- syscall.SIGTERM
	close(proceed)
	must.Eq(t, 200, receive(t, codes))
	must.NoError(t, r.ended(t))
}

func TestReload(t *testing.T) {
	reloads := make(chan error, 1)
	done := make(chan struct{})
	r := start(t, Options{Reload: func(context.Context) error {
		defer func() { done <- struct{}{} }()
		return <-reloads
	}}, nil)
	for _, err := range []error{nil, errors.New("broken"), nil} {
		reloads <- err
		r.signals <- syscall.SIGHUP
		receive(t, done)
	}
	code, _, _ := r.do(t, "GET", "/v1/health", "")
	must.Eq(t, 200, code)
}

func TestServingFails(t *testing.T) {
	drained := false
	r := start(t, Options{Drain: func(context.Context) error { drained = true; return errors.New("broken") }}, nil)
	must.NoError(t, r.listener.Close())
	err := r.ended(t)
	must.ErrorContains(t, err, "serve HTTP: ")
	must.Eq(t, ExitRuntime, ExitCode(err))
	must.True(t, drained)
}

// TestRunObeysRealSignals is the only one that sends the process a signal.
func TestRunObeysRealSignals(t *testing.T) {
	a, err := New(t.Context(), Options{Name: "test", Listen: Listen{Address: given("127.0.0.1:0")}})
	must.NoError(t, err)
	reloaded := make(chan struct{}, 1)
	a.opts.Reload = func(context.Context) error { reloaded <- struct{}{}; return nil }
	a.opts.Ready = func() error { return nil }
	done := make(chan error, 1)
	go func() { done <- a.Run(context.Background()) }()
	// Its answer says that it obeys signals.
	client := &http.Client{Transport: &http.Transport{}}
	resp, err := client.Get("http://" + a.Addr().String() + "/v1/health")
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	client.CloseIdleConnections()
	must.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGHUP))
	receive(t, reloaded)
	must.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGTERM))
	must.NoError(t, receive(t, done))
}
