package nomad

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// In a task without NOMAD_ADDR the agent is asked through the task's socket.
func TestNewClient(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("NOMAD_ADDR", "")
	t.Setenv("NOMAD_SECRETS_DIR", dir)
	c, err := NewClient()
	must.NoError(t, err)
	must.Eq(t, "http://127.0.0.1:4646", c.Address()) // no socket is there

	l, err := net.Listen("unix", filepath.Join(dir, "api.sock"))
	must.NoError(t, err)
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`"127.0.0.1:4647"`)) // the client notices
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	c, err = NewClient()
	must.NoError(t, err)
	leader, err := c.Status().Leader()
	must.NoError(t, err)
	must.Eq(t, "127.0.0.1:4647", leader)
	c.Close()
	must.NoError(t, srv.Close())
	must.ErrorIs(t, <-served, http.ErrServerClosed)

	t.Setenv("NOMAD_ADDR", "http://127.0.0.1:1")
	c, err = NewClient()
	must.NoError(t, err)
	must.Eq(t, "http://127.0.0.1:1", c.Address())
	must.NoError(t, os.RemoveAll(dir))
}
