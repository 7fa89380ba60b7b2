package driver

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/process"
)

// A task's process can look like an executor, and a task can write what looks
// like a journal. The plugin is root: it ends nothing, and recovers nothing, that
// its own program has not started.
func TestOrphan_NotOfAForgery(t *testing.T) {
	s := newSetup(t, "")
	self, err := process.Self()
	must.NoError(t, err)
	self.Start-- // a process that has ended
	local := s.cfg.TaskDir().LocalDir
	forged := filepath.Join(local, "x") // as if the task's directory were an allocation's
	must.NoError(t, os.Mkdir(forged, 0o755))
	j := &journal{path: filepath.Join(local, ".lifecycle", "x.json")}
	must.NoError(t, j.starting(self, s.d.name))
	handle := drivers.NewTaskHandle(1)
	handle.Config = s.cfg
	must.NoError(t, handle.SetDriverState(&struct{ Pid int }{1}))
	must.NoError(t, j.started(handle))

	config, err := json.Marshal(map[string]string{"LogFile": filepath.Join(forged, "executor.out")})
	must.NoError(t, err)
	// A shell that waits, so that its command line stays.
	script := "sleep 300 &\nwait\n"
	must.NoError(t, os.WriteFile(filepath.Join(forged, "executor"), []byte(script), 0o755))
	cmd := exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "executor", string(config)}, Dir: forged}
	must.NoError(t, cmd.Start())
	t.Cleanup(func() {
		below, err := process.Descendants(cmd.Process.Pid)
		must.NoError(t, err)
		for _, pid := range append(below, cmd.Process.Pid) {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill() // it may have ended
			}
		}
		_ = cmd.Wait() // it was killed
	})
	eventually(t, "the shell's child", func() bool {
		below, err := process.Descendants(cmd.Process.Pid)
		must.NoError(t, err)
		return len(below) > 0
	})

	s.d.sweep(true)
	s.d.killExecutors(forged)
	must.True(t, alive(t, cmd.Process.Pid))
	must.SliceEmpty(t, s.all())
	_, err = os.Stat(j.path)
	must.NoError(t, err)
}
