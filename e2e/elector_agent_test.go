package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// buildElector builds the elector and returns its path. It needs no libraries, so that
// it also runs in an image that has none.
func buildElector(t *testing.T) string {
	t.Helper()
	return buildAgent(t, t.TempDir(), "elector")
}

// buildAgent builds an agent into a directory and returns the program's path.
func buildAgent(t *testing.T, dir, name string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	defer cancel()
	path := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "../agents/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
	return path
}

// bench is a Consul with electors.
type electorBench struct {
	t       *testing.T
	consul  *cluster.Consul
	program string
}

func newElectorBench(t *testing.T) *electorBench {
	t.Helper()
	return &electorBench{
		t: t, program: buildElector(t),
		consul: clustertest.StartConsul(t, cluster.ConsulConfig{Clients: 2}),
	}
}

// elector is a running agent. Its API is on a unix socket.
type elector struct {
	b      *electorBench
	id     string
	cmd    *exec.Cmd
	socket string
	client *http.Client
	log    string // path
	ended  chan struct{}
}

// start starts an elector at a client agent of Consul and waits until it is ready.
func (b *electorBench) start(t *testing.T, id string, agent int, config string, args ...string) *elector {
	t.Helper()
	e := b.launch(t, id, agent, config, args...)
	await(t, "elector "+id+" is ready", func() bool { return e.health(t).Ready })
	return e
}

// launch starts one that may not become ready.
func (b *electorBench) launch(t *testing.T, id string, agent int, config string, args ...string) *elector {
	t.Helper()
	dir, err := os.MkdirTemp("", "elector") // short: it is part of a socket's name
	must.NoError(t, err)
	e := &elector{b: b, id: id, socket: filepath.Join(dir, "s"), log: filepath.Join(dir, "log"), ended: make(chan struct{})}
	must.NoError(t, os.WriteFile(filepath.Join(dir, "c.hcl"), []byte(config), 0o600))
	log, err := os.Create(e.log)
	must.NoError(t, err)
	args = append([]string{"agent", "-id=" + id, "-listen=unix://" + e.socket, "-config=" + filepath.Join(dir, "c.hcl")}, args...)
	e.cmd = exec.Command(b.program, args...)
	e.cmd.Env = append(os.Environ(), b.consul.Env(b.consul.ClientAddr(agent))...)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	must.NoError(t, e.cmd.Start())
	must.NoError(t, log.Close())
	go func() {
		_ = e.cmd.Wait() // its exit code is in the state
		close(e.ended)
	}()
	e.client = &http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
		},
	}}
	t.Cleanup(func() {
		e.client.CloseIdleConnections()
		_ = e.cmd.Process.Signal(syscall.SIGCONT) // it may have ended
		_ = e.cmd.Process.Signal(syscall.SIGTERM)
		<-e.ended
		if t.Failed() {
			text, err := os.ReadFile(e.log)
			t.Logf("log of elector %s (%v):\n%s", id, err, text)
		}
		must.NoError(t, os.RemoveAll(dir))
	})
	return e
}

// health is what the elector says of itself.
type health struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason"`
}

// health asks; until the elector listens it is not ready without a reason.
func (e *elector) health(t *testing.T) (h health) {
	t.Helper()
	resp, err := e.client.Get("http://elector/v1/health")
	if err != nil {
		return h
	}
	must.NoError(t, json.NewDecoder(resp.Body).Decode(&h))
	must.NoError(t, resp.Body.Close())
	must.Eq(t, h.Ready, resp.StatusCode == http.StatusOK)
	return h
}

// end sends a signal and returns the exit code.
func (e *elector) end(t *testing.T, sig syscall.Signal) int {
	t.Helper()
	must.NoError(t, e.cmd.Process.Signal(sig))
	<-e.ended
	return e.cmd.ProcessState.ExitCode()
}

// answer is what the API says.
type answer struct {
	election.Status
	Code    int             `json:"-"`
	Error   string          `json:"error"`
	Field   string          `json:"field"`
	Inner   json.RawMessage `json:"status"`
	Results []struct {
		Key, Value string
		Index      uint64
	} `json:"results"`
}

// UnmarshalJSON keeps that of Status from hiding the other fields.
func (a *answer) UnmarshalJSON(b []byte) error {
	type others struct {
		Error   *string          `json:"error"`
		Field   *string          `json:"field"`
		Inner   *json.RawMessage `json:"status"`
		Results any              `json:"results"`
	}
	return errors.Join(
		json.Unmarshal(b, &a.Status),
		json.Unmarshal(b, &others{&a.Error, &a.Field, &a.Inner, &a.Results}),
	)
}

// do makes a request. The path begins after the name of the election.
func (e *elector) do(t *testing.T, method, name, path, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://elector/v1/elections/"+name+path, strings.NewReader(body))
	must.NoError(t, err)
	resp, err := e.client.Do(req)
	must.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	a := answer{Code: resp.StatusCode}
	must.NoError(t, json.Unmarshal(b, &a), must.Sprint(string(b)))
	return a
}

// leads waits until this elector leads, and returns the token.
func (e *elector) leads(t *testing.T, name string) uint64 {
	t.Helper()
	var token uint64
	await(t, e.id+" leads "+name, func() bool {
		a := e.do(t, "GET", name, "", "")
		token = a.Token
		return a.Self
	})
	return token
}

// follows waits until this elector knows as many candidates, itself included.
func (e *elector) follows(t *testing.T, name string, candidates int) {
	t.Helper()
	await(t, fmt.Sprintf("%s knows %d candidates for %s", e.id, candidates, name), func() bool {
		return len(e.do(t, "GET", name, "", "").Candidates) == candidates
	})
}

// eventStream is an open stream.
type eventStream struct {
	lines *bufio.Scanner
	close context.CancelFunc
}

// stream opens one. The client leaves when close is called.
func (e *elector) stream(t *testing.T, name, path string) eventStream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://elector/v1/elections/"+name+path, nil)
	must.NoError(t, err)
	resp, err := e.client.Do(req)
	must.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	must.Eq(t, http.StatusOK, resp.StatusCode)
	return eventStream{bufio.NewScanner(resp.Body), cancel}
}

// end waits for the end of the stream, which is the elector's.
func (s eventStream) end(t *testing.T) {
	t.Helper()
	for s.lines.Scan() {
		continue
	}
	must.NoError(t, s.lines.Err())
}

// next returns the next event of one of the names, and its data.
func (s eventStream) next(t *testing.T, names ...string) (string, map[string]any) {
	t.Helper()
	var event string
	for s.lines.Scan() {
		key, value, _ := strings.Cut(s.lines.Text(), ": ")
		switch key {
		case "event":
			event = value
		case "data":
			for _, name := range names {
				if name == event {
					var data map[string]any
					must.NoError(t, json.Unmarshal([]byte(value), &data))
					return event, data
				}
			}
		}
	}
	t.Fatalf("the stream ended before %q: %v", names, s.lines.Err())
	return "", nil
}
