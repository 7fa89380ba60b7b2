package manage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

// inBubble serves a task in memory and in synctest's time.
func inBubble(t *testing.T, f func(t *testing.T, app *fakeApp, ln *pipes, stop func())) {
	synctest.Test(t, func(t *testing.T) {
		ln, app := newPipes(), newApp(allocA, "app")
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, ln, app, Options{}) }()
		f(t, app, ln, cancel)
		cancel()
		must.NoError(t, <-done)
	})
}

// ask sends a request and returns the connection and a reader behind the
// header, without having read anything yet.
func ask(t *testing.T, ln *pipes, path string) net.Conn {
	t.Helper()
	conn, err := ln.dial(context.Background())
	must.NoError(t, err)
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	must.NoError(t, err)
	return conn
}

func body(t *testing.T, conn net.Conn) *bufio.Reader {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must.NoError(t, err)
	must.Eq(t, 200, resp.StatusCode)
	must.Eq(t, "text/event-stream", resp.Header.Get("Content-Type"))
	return bufio.NewReader(resp.Body)
}

func TestEvents(t *testing.T) {
	inBubble(t, func(t *testing.T, app *fakeApp, ln *pipes, _ func()) {
		conn := ask(t, ln, "/v1/events")
		r := body(t, conn)
		next := func(name string, state lifecycle.State, comments int) status {
			t.Helper()
			e, n, err := readEvent(r)
			must.NoError(t, err)
			must.Eq(t, name, e.name)
			must.Eq(t, state, e.data.State)
			must.Eq(t, comments, n)
			return e.data
		}
		must.Eq(t, allocA, next(eventState, lifecycle.Running, 0).AllocID)

		// Two heartbeats while nothing happens. The reader has to take them: nothing
		// is buffered on the way.
		go func() {
			time.Sleep(2*heartbeat + time.Second)
			app.machine.Announce(lifecycle.Stop{Reason: "drained"})
		}()
		must.Eq(t, "drained", next(eventSoon, lifecycle.Running, 2).Reason)

		app.machine.To(lifecycle.Stopping, &lifecycle.Stop{Reason: "drained", Deadline: time.Now().Add(5 * time.Second)})
		must.Eq(t, 5000, *next(eventState, lifecycle.Stopping, 0).RemainingMS)
		app.machine.To(lifecycle.Stopped, nil)
		next(eventState, lifecycle.Stopped, 0)
		app.machine.To(lifecycle.Destroyed, nil)
		next(eventState, lifecycle.Destroyed, 0)
		next(eventEnd, lifecycle.Created, 0) // its data is empty
		_, err := r.ReadByte()
		must.ErrorIs(t, err, io.EOF)
		must.NoError(t, conn.Close())
	})
}

// A reader that does not read gets the newest status and none of the thousand
// before it; it holds up neither the machine nor the other readers.
func TestEvents_SlowReader(t *testing.T) {
	inBubble(t, func(t *testing.T, app *fakeApp, ln *pipes, _ func()) {
		slow := ask(t, ln, "/v1/events")
		fast := ask(t, ln, "/v1/events")
		r := body(t, fast)
		_, _, err := readEvent(r)
		must.NoError(t, err)
		synctest.Wait() // the slow one's first event waits to be read
		for i := range 1000 {
			must.True(t, app.machine.Announce(lifecycle.Stop{Reason: "drained", Detail: fmt.Sprint(i)}))
			e, _, err := readEvent(r)
			must.NoError(t, err)
			must.Eq(t, fmt.Sprint(i), e.data.Detail)
		}
		must.True(t, app.machine.To(lifecycle.Stopping, &lifecycle.Stop{Reason: "drained"}))
		must.True(t, app.machine.To(lifecycle.Destroyed, nil))
		must.NoError(t, fast.Close())

		r = body(t, slow)
		var seen []event
		for {
			e, _, err := readEvent(r)
			if errors.Is(err, io.EOF) {
				break
			}
			must.NoError(t, err)
			seen = append(seen, e)
		}
		must.Len(t, 3, seen) // what was on its way, the newest, and the end
		must.Eq(t, lifecycle.Running, seen[0].data.State)
		must.Eq(t, lifecycle.Destroyed, seen[1].data.State)
		must.Eq(t, eventEnd, seen[2].name)
		must.NoError(t, slow.Close())
	})
}

// A reader that never reads loses its connection and its place.
func TestEvents_DeadReader(t *testing.T) {
	inBubble(t, func(t *testing.T, app *fakeApp, ln *pipes, _ func()) {
		var conns []net.Conn
		for range maxStreams {
			conns = append(conns, ask(t, ln, "/v1/events"))
		}
		synctest.Wait()
		code := func() int {
			conn := ask(t, ln, "/v1/events")
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			must.NoError(t, err)
			must.NoError(t, conn.Close())
			return resp.StatusCode
		}
		must.Eq(t, 503, code())
		time.Sleep(ioTimeout + time.Second)
		synctest.Wait()
		must.Eq(t, 200, code())
		for _, c := range conns {
			must.NoError(t, c.Close())
		}
	})
}

// When the task is no longer served the stream ends: with the last event only
// if the task was destroyed, so that the reader knows whether to come back.
func TestEvents_ServerEnds(t *testing.T) {
	for name, want := range map[string][]string{
		"the task is destroyed": {eventState, eventState, eventEnd},
		"the plugin ends":       {eventState},
	} {
		t.Run(name, func(t *testing.T) {
			for range 16 { // both are there at once when the stream looks, and either may be seen first
				inBubble(t, func(t *testing.T, app *fakeApp, ln *pipes, stop func()) {
					conn := ask(t, ln, "/v1/events")
					synctest.Wait() // the first event waits to be read
					if len(want) > 1 {
						app.machine.To(lifecycle.Destroyed, nil)
					}
					stop()
					synctest.Wait()
					r := body(t, conn)
					var names []string
					for {
						e, _, err := readEvent(r)
						if err != nil {
							break
						}
						names = append(names, e.name)
					}
					must.Eq(t, want, names)
					must.NoError(t, conn.Close())
				})
			}
		})
	}
}

// A client that does not send a whole header is got rid of.
func TestServe_SlowHeader(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *fakeApp, ln *pipes, _ func()) {
		conn, err := ln.dial(context.Background())
		must.NoError(t, err)
		_, err = fmt.Fprint(conn, "GET /v1/st")
		must.NoError(t, err)
		begin := time.Now()
		_, err = io.ReadAll(conn)
		must.NoError(t, err)
		must.Eq(t, ioTimeout, time.Since(begin))
		must.NoError(t, conn.Close())
	})
}
