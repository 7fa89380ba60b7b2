package driver

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
)

// dialUnix connects to a unix socket whose path may be longer than the kernel
// takes.
func dialUnix(path string) (net.Conn, error) {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(dir) }() // only a file descriptor
	return net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path)))
}

// over is a client of the HTTP server at a unix socket.
func over(t *testing.T, path string) *http.Client {
	t.Helper()
	transport := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dialUnix(path) },
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// ownSocket is where a task finds its management socket.
func ownSocket(cfg *drivers.TaskConfig) string {
	return filepath.Join(cfg.TaskDir().SecretsDir, manage.SocketName)
}

// status is what the API answers about a task.
type apiStatus struct {
	Task        string             `json:"task"`
	State       string             `json:"state"`
	Soon        bool               `json:"soon"`
	Reason      string             `json:"reason"`
	Final       bool               `json:"final"`
	Detail      string             `json:"detail"`
	RemainingMS *int64             `json:"remaining_ms"`
	Checkpoint  *manage.Checkpoint `json:"checkpoint"`
	Links       map[string]string  `json:"links"`
}

// ask sends a request without a body and decodes the answer into out, unless that
// is nil. It returns the status code and the body.
func ask(t *testing.T, c *http.Client, method, path string, out any) (int, string) {
	t.Helper()
	return send(t, c, method, path, "", out)
}

func send(t *testing.T, c *http.Client, method, path, body string, out any) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, strings.NewReader(body))
	must.NoError(t, err)
	resp, err := c.Do(req)
	must.NoError(t, err)
	defer func() { must.NoError(t, resp.Body.Close()) }()
	data, err := io.ReadAll(resp.Body)
	must.NoError(t, err)
	if out != nil {
		must.NoError(t, json.Unmarshal(data, out), must.Sprint(string(data)))
	}
	return resp.StatusCode, string(data)
}

// notice is one server-sent event.
type notice struct {
	name   string
	status apiStatus
}

// listen follows a task's stream of events. The channel is closed when the
// stream ends.
func listen(t *testing.T, c *http.Client, path string) <-chan notice {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	must.NoError(t, err)
	stream := *c
	stream.Timeout = 0
	resp, err := stream.Do(req)
	must.NoError(t, err)
	must.Eq(t, http.StatusOK, resp.StatusCode)
	out := make(chan notice, 64)
	go func() {
		defer close(out)
		defer func() { _ = resp.Body.Close() }() // all that matters has been read
		var n notice
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				n.name = name
			}
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if json.Unmarshal([]byte(data), &n.status) != nil {
					return
				}
				out <- n
				n = notice{}
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-spent(out) })
	return out
}

func spent(ch <-chan notice) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range ch {
			continue // nobody looks at them any more
		}
	}()
	return done
}

// until returns the first notice that ok accepts.
func until(t *testing.T, ch <-chan notice, what string, ok func(notice) bool) notice {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case n, more := <-ch:
			must.True(t, more, must.Sprint("the stream has ended before: "+what))
			if ok(n) {
				return n
			}
		case <-deadline:
			t.Fatal("not in time: " + what)
		}
	}
}

func inState(state string) func(notice) bool {
	return func(n notice) bool { return n.name == "state" && n.status.State == state }
}

// The task hears of the servers' decision before it is asked to stop, and then
// of the rest of its life, to the end.
func TestNotice_BeforeTheStop(t *testing.T) {
	cases := map[string]struct {
		decide func(*testing.T, *fakeNomad, *drivers.TaskConfig)
		reason string
		final  bool
	}{
		"drained": {func(t *testing.T, n *fakeNomad, cfg *drivers.TaskConfig) { n.set(t, cfg.AllocID, drained) }, "drained", false},
		"preempted": {func(t *testing.T, n *fakeNomad, cfg *drivers.TaskConfig) {
			n.set(t, cfg.AllocID, preempted)
		}, "preempted", false},
		// The stream itself does not tell this one.
		"job stopped": {func(t *testing.T, n *fakeNomad, cfg *drivers.TaskConfig) { n.stopJob(t, cfg) }, "stopped", true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s, n := newSetupWith(t, block("manage {\n}\n", stopHooks))
			s.start(t)
			must.Eq(t, ownSocket(s.cfg), s.only(t).cfg.Env[socketKey])
			notices := listen(t, over(t, ownSocket(s.cfg)), "/v1/events")
			first := until(t, notices, "present state", func(notice) bool { return true })
			must.True(t, inState("running")(first))
			must.False(t, first.status.Soon)
			eventually(t, "stream of the allocation", func() bool { return n.followed(s.cfg.AllocID) })

			tc.decide(t, n, s.cfg)
			soon := until(t, notices, "early notice", func(n notice) bool { return n.name == "stopping_soon" })
			must.Eq(t, "running", soon.status.State)
			must.True(t, soon.status.Soon)
			must.Eq(t, tc.reason, soon.status.Reason)
			must.Eq(t, tc.final, soon.status.Final)
			must.Nil(t, soon.status.RemainingMS)
			must.Eq(t, 0, s.count("hook")+s.count("stop"))

			must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, ""))
			must.Eq(t, tc.reason, s.told(t, "/prestop").Reason)
			last := until(t, notices, "end of the process", inState("stopped"))
			must.Eq(t, tc.reason, last.status.Reason)
			must.NotNil(t, last.status.RemainingMS)
			must.NoError(t, s.h.DestroyTask(s.cfg.ID, false))
			until(t, notices, "end of the stream", func(n notice) bool { return n.name == "end" })
			s.forgotten(t)
		})
	}
}

// What the servers have said before they fell silent is still known.
func TestNotice_OutlivesNomad(t *testing.T) {
	s, n := newSetupWith(t, block("manage {\n}\n", stopHooks))
	s.start(t)
	notices := listen(t, over(t, ownSocket(s.cfg)), "/v1/events")
	eventually(t, "stream of the allocation", func() bool { return n.followed(s.cfg.AllocID) })
	n.set(t, s.cfg.AllocID, drained)
	until(t, notices, "early notice", func(n notice) bool { return n.name == "stopping_soon" })
	t.Cleanup(n.silence())
	must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, ""))
	must.Eq(t, "drained", s.told(t, "/prestop").Reason)
}

// A restart of one task is no stop that anybody could prepare for.
func TestNotice_NotOfARestart(t *testing.T) {
	s, n := newSetupWith(t, block("manage {\n}\n", stopHooks))
	s.start(t)
	eventually(t, "stream of the allocation", func() bool { return n.followed(s.cfg.AllocID) })
	n.set(t, s.cfg.AllocID, func(a *api.Allocation) {
		a.TaskStates = map[string]*api.TaskState{"web": {State: "running", Events: []*api.TaskEvent{
			{Type: api.TaskStarted}, {Type: api.TaskRestartSignal, DisplayMessage: "User requested running tasks to restart"},
		}}}
	})
	n.set(t, s.cfg.AllocID, func(a *api.Allocation) { a.ClientDescription = "told" })
	notices := listen(t, over(t, ownSocket(s.cfg)), "/v1/events")
	must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, ""))
	must.Eq(t, "restarted", s.told(t, "/prestop").Reason)
	must.NoError(t, s.h.DestroyTask(s.cfg.ID, false))
	for got := range notices {
		must.NotEq(t, "stopping_soon", got.name)
	}
}

// What the socket lets a task do is what its job says.
func TestSocket_Refusals(t *testing.T) {
	s, _ := newSetupWith(t, block("manage {\n}\n"))
	s.start(t)
	c := over(t, ownSocket(s.cfg))
	var st apiStatus
	code, _ := ask(t, c, http.MethodGet, "/v1/state", &st)
	must.Eq(t, http.StatusOK, code)
	must.Eq(t, "running", st.State)
	must.Eq(t, "web", st.Task)
	must.Nil(t, st.Checkpoint)

	code, text := ask(t, c, http.MethodPost, "/v1/save", nil)
	must.Eq(t, http.StatusConflict, code)
	must.StrContains(t, text, "no checkpoint block")
	code, text = send(t, c, http.MethodPost, "/v1/replicate", `{"delta":1}`, nil)
	must.Eq(t, http.StatusForbidden, code)
	must.StrContains(t, text, "no manage { replicate { max = … } }")
}

// A task asks Nomad for one more of its group, within the bounds of its job.
func TestSocket_Replicate(t *testing.T) {
	s, n := newSetupWith(t, block("manage {\n replicate {\n max = 4\n }\n}\n"))
	job := shop(t)
	index := uint64(7)
	job.JobModifyIndex = &index
	n.answer(t, "/v1/job/shop", job)
	n.answer(t, "/v1/job/shop/versions", map[string]any{"Versions": []*api.Job{job}})
	s.start(t)
	c := over(t, ownSocket(s.cfg))
	var scaled manage.Scaled
	code, text := send(t, c, http.MethodPost, "/v1/replicate", `{"delta":1}`, &scaled)
	must.Eq(t, http.StatusOK, code, must.Sprint(text))
	must.Eq(t, manage.Scaled{Count: 4, Previous: 3, EvalID: "e1"}, scaled)
	must.Len(t, 1, n.scaled)
	must.StrContains(t, n.scaled[0], "asked by task web of alloc "+s.cfg.AllocID)

	code, text = send(t, c, http.MethodPost, "/v1/replicate", `{"delta":2}`, nil)
	must.Eq(t, http.StatusConflict, code)
	must.StrContains(t, text, "max is 4")
	must.Len(t, 1, n.scaled)
}

// A task without manage and checkpoint has no socket.
func TestSocket_None(t *testing.T) {
	s := newSetup(t, block(stopHooks))
	s.start(t)
	_, err := dialUnix(ownSocket(s.cfg))
	must.ErrorIs(t, err, unix.ENOENT)
}

// A start that fails leaves no socket, and one that succeeds leaves none behind.
func TestSocket_IsRemoved(t *testing.T) {
	s := newSetup(t, block("manage {\n}\n", httpHook("poststart", "fail", "")))
	_, _, err := s.h.StartTask(s.cfg)
	must.Error(t, err)
	_, err = dialUnix(ownSocket(s.cfg))
	must.ErrorIs(t, err, unix.ENOENT)

	s = newSetup(t, block("manage {\n}\n"))
	s.start(t)
	conn, err := dialUnix(ownSocket(s.cfg))
	must.NoError(t, err)
	must.NoError(t, conn.Close())
	must.NoError(t, s.h.StopTask(s.cfg.ID, time.Second, ""))
	must.NoError(t, s.h.DestroyTask(s.cfg.ID, false))
	_, err = dialUnix(ownSocket(s.cfg))
	must.ErrorIs(t, err, unix.ENOENT)
}
