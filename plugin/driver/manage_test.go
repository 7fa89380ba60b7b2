package driver

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/shoenig/test/must"
)

// endpointDir is where an endpoint may make its sockets: not far from the root,
// and for this user alone.
func endpointDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nl")
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(dir)) })
	return filepath.Join(dir, "e")
}

// endpoint asks the driver for its fingerprint, as Nomad does when it begins to
// use it, and returns a client of the node's endpoint.
func (s *setup) endpoint(t *testing.T, dir string) *http.Client {
	t.Helper()
	fingerprints, err := s.d.Fingerprint(t.Context())
	must.NoError(t, err)
	receive(t, fingerprints)
	path := filepath.Join(dir, "node.sock")
	for _, socket := range []string{filepath.Join(dir, s.d.name+".sock"), path} { // its own, and the node's
		eventually(t, "endpoint of the node", func() bool {
			conn, err := dialUnix(socket)
			return err == nil && conn.Close() == nil
		})
	}
	return over(t, path)
}

type listing struct {
	Tasks   []apiStatus `json:"tasks"`
	Drivers []struct {
		Driver string `json:"driver"`
		Error  string `json:"error"`
	} `json:"drivers"`
}

// names are the tasks that the endpoint knows.
func names(t *testing.T, c *http.Client) []string {
	t.Helper()
	var l listing
	code, text := ask(t, c, http.MethodGet, "/v1/tasks", &l)
	must.Eq(t, http.StatusOK, code, must.Sprint(text))
	all := []string{}
	for _, task := range l.Tasks {
		all = append(all, task.Task+" "+task.State)
	}
	return all
}

// offering is the application's side of what operators see.
func offering(t *testing.T) (port *structs.AllocatedPorts, h http.Handler) {
	t.Helper()
	h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization")+r.Header.Get("Cookie") != "" {
			w.WriteHeader(http.StatusTeapot)
		}
		_, _ = io.WriteString(w, "app "+r.URL.RequestURI()) // a client that has gone is no failure
	})
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	host, text, err := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	must.NoError(t, err)
	var value int
	_, err = fmt.Sscan(text, &value)
	must.NoError(t, err)
	return &structs.AllocatedPorts{{Label: "http", Value: value, HostIP: host}}, h
}

// Operators find every task that has a block, from when it runs to its end, with
// what its job says that it offers.
func TestEndpoint_Tasks(t *testing.T) {
	dir := endpointDir(t)
	s, n := newSetupWith(t, "")
	must.NoError(t, configureAgent(t, s.d, n.agent("endpoint {\n dir = \""+dir+"\"\n }")))
	ports, h := offering(t)
	s.cfg.Resources.Ports = ports
	s.configure(t, block(offers, httpHook("ready", "hang", "timeout = \"1h\"")))
	t.Chdir(s.cfg.TaskDir().LocalDir)
	serveUnix(t, "app.sock", h)
	c := s.endpoint(t, dir)
	must.SliceEmpty(t, names(t, c))

	release := make(chan error, 1)
	go func() {
		_, _, err := s.h.StartTask(s.cfg)
		release <- err
	}()
	eventually(t, "ready hook", func() bool { return s.count("hook /hang") == 1 })
	must.SliceEmpty(t, names(t, c))
	s.only(t).finish(nil)
	must.Error(t, receive(t, release))

	s.configure(t, block(offers))
	s.cfg.ID += "-again"
	s.start(t)
	must.Eq(t, []string{"web running"}, names(t, c))
	base := "/v1/tasks/" + s.cfg.AllocID[:8] + "/web"
	var st apiStatus
	code, _ := ask(t, c, http.MethodGet, base, &st)
	must.Eq(t, http.StatusOK, code)
	for _, link := range []string{"state", "events", "health", "metrics", "profile", "config", "stdout", "stderr"} {
		must.MapContainsKey(t, st.Links, link)
	}
	must.MapNotContainsKey(t, st.Links, "save")
	for path, want := range map[string]string{
		"/health": "app /health", "/metrics": "app /internal/metrics", "/config": "app /conf",
		"/profile/heap?debug=1": "app /debug/pprof/heap?debug=1", "/profile": "app /debug/pprof",
	} {
		code, text := ask(t, c, http.MethodGet, base+path, nil)
		must.Eq(t, http.StatusOK, code, must.Sprint(path))
		must.Eq(t, want, text)
	}

	notices := listen(t, c, base+"/events")
	until(t, notices, "present state", inState("running"))
	n.set(t, s.cfg.AllocID, drained)
	until(t, notices, "early notice", func(n notice) bool { return n.name == "stopping_soon" && n.status.Reason == "drained" })
	must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, ""))
	until(t, notices, "end of the process", inState("stopped"))
	must.Eq(t, []string{"web stopped"}, names(t, c))
	must.NoError(t, s.h.DestroyTask(s.cfg.ID, false))
	must.SliceEmpty(t, names(t, c))
	code, _ = ask(t, c, http.MethodGet, base, nil)
	must.Eq(t, http.StatusNotFound, code)
}

const offers = `
manage {
  health {
    port = "http"
  }
  metrics {
    port = "http"
    path = "/internal/metrics"
  }
  profile {
    port = "http"
  }
  config {
    socket = "app.sock"
    path = "/conf"
  }
}
`

// An operator can have a checkpoint saved, and reads the plugin's own metrics.
func TestEndpoint_SaveAndMetrics(t *testing.T) {
	dir := endpointDir(t)
	r := newRig(t)
	p := r.place(t, checkpointed(""))
	must.NoError(t, configureAgent(t, p.d, r.n.agent(r.stores()+"\nendpoint {\n dir = \""+dir+"\"\n }")))
	p.app.set("the state")
	p.start(t)
	c := p.endpoint(t, dir)
	var st apiStatus
	base := "/v1/tasks/" + p.cfg.AllocID + "/web"
	ask(t, c, http.MethodGet, base, &st)
	must.MapContainsKey(t, st.Links, "save")
	code, text := ask(t, c, http.MethodPost, base+"/save", nil)
	must.Eq(t, http.StatusOK, code, must.Sprint(text))
	must.StrContains(t, text, `"version":"1/1"`)
	r.n.set(t, p.cfg.AllocID, drained)
	p.leave(t, time.Minute)

	_, text = ask(t, c, http.MethodGet, "/metrics", nil)
	for _, want := range []string{
		`nomad_lifecycle_transitions_total{from="created",to="restoring",driver="lifecycle-fake"} 1`,
		`nomad_lifecycle_stops_total{reason="drained",driver="lifecycle-fake"} 1`,
		`nomad_lifecycle_hooks_total{hook="save",result="ok",driver="lifecycle-fake"} 2`,
		`nomad_lifecycle_checkpoint_saves_total{result="ok",driver="lifecycle-fake"} 2`,
		`nomad_lifecycle_checkpoint_restores_total{result="cold",driver="lifecycle-fake"} 1`,
		`nomad_lifecycle_checkpoint_save_seconds_count{driver="lifecycle-fake"} 2`,
		`nomad_lifecycle_state_seconds_count{state="running",driver="lifecycle-fake"} 1`,
	} {
		must.True(t, strings.Contains(text, want+"\n"), must.Sprint(want))
	}
}

// A task without a block is Nomad's alone.
func TestEndpoint_OnlyManaged(t *testing.T) {
	dir := endpointDir(t)
	s, n := newSetupWith(t, "command = \"/bin/a\"\n")
	must.NoError(t, configureAgent(t, s.d, n.agent("endpoint {\n dir = \""+dir+"\"\n }")))
	c := s.endpoint(t, dir)
	s.start(t)
	must.SliceEmpty(t, names(t, c))
}

// Two plugin processes of a node are one list, whichever of them serves it.
func TestEndpoint_OfTheNode(t *testing.T) {
	dir := endpointDir(t)
	c, web, log := newPair(t, "", "")
	for _, m := range []*member{web, log} {
		must.NoError(t, configureAgent(t, m.d, c.n.agent("endpoint {\n dir = \""+dir+"\"\n }")))
		m.start(t)
		m.endpoint(t, dir)
	}
	client := over(t, filepath.Join(dir, "node.sock"))
	eventually(t, "both processes", func() bool { return len(names(t, client)) == 2 })
	must.Eq(t, []string{"log running", "web running"}, names(t, client))
}

// A task that was recovered is there again.
func TestEndpoint_AfterARestart(t *testing.T) {
	dir := endpointDir(t)
	s, n := newSetupWith(t, block(stopHooks))
	handle := s.start(t)
	next := newSetup(t, "")
	must.NoError(t, configureAgent(t, next.d, n.agent("endpoint {\n dir = \""+dir+"\"\n }")))
	must.NoError(t, next.h.RecoverTask(decoded(t, handle)))
	must.Eq(t, []string{"web running"}, names(t, next.endpoint(t, dir)))
}

// Nomad starts plugins for a moment to read their schemas. That leaves no trace,
// and neither does a configuration without an endpoint.
func TestEndpoint_NotBeforeItIsUsed(t *testing.T) {
	dir := endpointDir(t)
	s, n := newSetupWith(t, "")
	must.NoError(t, configureAgent(t, s.d, n.agent("endpoint {\n dir = \""+dir+"\"\n }")))
	_, err := s.h.TaskConfigSchema()
	must.NoError(t, err)
	_, err = os.Stat(dir)
	must.ErrorIs(t, err, os.ErrNotExist)

	must.NoError(t, s.d.SetConfig(&base.Config{}))
	fingerprints, err := s.d.Fingerprint(t.Context())
	must.NoError(t, err)
	receive(t, fingerprints)
	_, err = os.Stat(dir)
	must.ErrorIs(t, err, os.ErrNotExist)
}
