package driver

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// stateful is the application in a task: it gives its state and takes it.
type stateful struct {
	*script

	mu    sync.Mutex // guards the fields below
	state string
	// answer, if not nil, answers a save in place of the state.
	answer http.HandlerFunc
	// restore is the status code that a restore is answered with, 0 for no answer.
	restore int
}

// ServeHTTP implements http.Handler.
func (a *stateful) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has left
	}
	a.mu.Lock()
	state, answer, restore := a.state, a.answer, a.restore
	a.mu.Unlock()
	switch {
	case r.URL.Path != "/state":
		a.add("hook %s", r.URL.Path)
	case r.Method == http.MethodPut:
		a.add("restore %s", body)
		if restore == 0 {
			hanging(w, r)
			return
		}
		w.WriteHeader(restore)
	default:
		a.hear("/state", body)
		a.add("save")
		if answer != nil {
			answer(w, r)
			return
		}
		_, _ = io.WriteString(w, state) // a client that has gone is no failure of the test
	}
}

func (a *stateful) set(state string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state, a.answer = state, nil
}

func (a *stateful) answers(h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = h
}

func (a *stateful) refusesRestore(code int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.restore = code
}

// rig is what starts of one task share: a store and Nomad.
type rig struct {
	dir string // of the store
	n   *fakeNomad
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return &rig{dir: t.TempDir(), n: newNomad(t)}
}

// stores is the part of an agent's configuration that names the store.
func (r *rig) stores() string { return "stores = { shared = \"file://" + r.dir + "\" }" }

// place is one allocation on one node, with its own plugin process.
type place struct {
	*setup
	app *stateful
}

const byPort = `
  save {
    http {
      port = "http"
      path = "/state"
    }
    timeout = "5s"
  }
  restore {
    http {
      port = "http"
      path = "/state"
    }
  }
`

// checkpointed is a lifecycle block with a checkpoint that is moved by HTTP.
func checkpointed(more string, others ...string) string {
	return block("checkpoint {\n store = \"shared\"\n" + byPort + more + "\n}\n" + strings.Join(others, ""))
}

// place makes a new allocation of the task, on a node of its own. It is not
// started.
func (r *rig) place(t *testing.T, text string) *place {
	t.Helper()
	p := &place{setup: newSetup(t, "")}
	p.app = &stateful{script: p.script, state: "state of " + p.cfg.AllocID[:8], restore: http.StatusNoContent}
	server := httptest.NewServer(p.app)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	host, port, err := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	must.NoError(t, err)
	var value int
	_, err = fmt.Sscan(port, &value)
	must.NoError(t, err)
	p.cfg.Resources.Ports = &structs.AllocatedPorts{{Label: "http", Value: value, HostIP: host}}
	must.NoError(t, configureAgent(t, p.d, r.n.agent(r.stores())))
	r.n.run(t, p.cfg, shop(t))
	p.configure(t, text)
	return p
}

// leave stops the task and takes it away, as Nomad does when it moves an
// allocation. It returns the text of the event about the end of its process.
func (p *place) leave(t *testing.T, timeout time.Duration) string {
	t.Helper()
	events := collect(t, p.setup)
	result := p.waitTask(t)
	must.NoError(t, p.h.StopTask(p.cfg.ID, timeout, ""))
	wait(t, result)
	must.NoError(t, p.h.DestroyTask(p.cfg.ID, false))
	p.forgotten(t)
	return only(t, events(), "stopped").Message
}

// begun starts the task and returns the text of the event that it runs.
func (p *place) begun(t *testing.T) string {
	t.Helper()
	events := collect(t, p.setup)
	p.start(t)
	return only(t, events(), "running").Message
}

// file is what the process finds of its checkpoint, "" if there is none.
func (p *place) file(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.cfg.TaskDir().LocalDir, "lifecycle", "checkpoint"))
	if os.IsNotExist(err) {
		return ""
	}
	must.NoError(t, err)
	return string(data)
}

// objects are the names of what lies in the store, below the task's own part.
func (r *rig) objects(t *testing.T) []string {
	t.Helper()
	all := []string{}
	must.NoError(t, filepath.WalkDir(r.dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			all = append(all, filepath.Base(filepath.Dir(path))+"/"+e.Name())
		}
		return err
	}))
	return all
}

// losing takes the store away until the function that it returns is called.
func (r *rig) losing(t *testing.T) (back func()) {
	t.Helper()
	must.NoError(t, os.Rename(r.dir, r.dir+".away"))
	return func() { must.NoError(t, os.Rename(r.dir+".away", r.dir)) }
}

// hanging is an answer that never comes.
func hanging(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func answering(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // as above
	}
}

// execs has commands run by fn, which is given the task as the inner driver has
// it.
func (p *place) execs(fn func(cfg *drivers.TaskConfig, command string) int) {
	p.ExecTaskF = func(id string, command []string, _ time.Duration) (*drivers.ExecTaskResult, error) {
		p.add("exec %s", strings.Join(command, " "))
		task, err := p.task(id)
		if err != nil {
			return nil, err
		}
		return &drivers.ExecTaskResult{ExitResult: &drivers.ExitResult{ExitCode: fn(task.cfg, command[0])}}, nil
	}
}

// inTime runs fn and fails if that takes longer than limit, which is generous:
// it says that fn did not wait for something else.
func inTime(t *testing.T, limit time.Duration, fn func()) {
	t.Helper()
	begin := time.Now()
	fn()
	must.Less(t, limit, time.Since(begin))
}

// background starts a task and returns at once.
func (p *place) background(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, _, err := p.h.StartTask(p.cfg)
		select {
		case done <- err:
		case <-ctx.Done():
		}
	}()
	return done
}

// serveUnix answers at a unix socket until the test ends.
func serveUnix(t *testing.T, path string, h http.Handler) {
	t.Helper()
	l, err := net.Listen("unix", path)
	must.NoError(t, err)
	server := httptest.NewUnstartedServer(h)
	must.NoError(t, server.Listener.Close())
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
}
