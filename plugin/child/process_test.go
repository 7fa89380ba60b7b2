package child

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
)

// When this process is killed, the child ends with it, and what the child has
// started does not.
func TestParentKilled(t *testing.T) {
	b := newBinary(t, "driver")
	self, err := os.Executable()
	must.NoError(t, err)
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), modeKey+"=parent", pathKey+"="+b.path, "TMPDIR="+t.TempDir()) // what it leaves
	out, err := parent.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, parent.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must.NoError(t, err)
	must.Eq(t, "ready\n", line)

	data, err := os.ReadFile(filepath.Join(b.dir, "process"))
	must.NoError(t, err)
	process, err := strconv.Atoi(string(data))
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, syscall.Kill(process, syscall.SIGKILL)) })
	pid := childOf(t, parent.Process.Pid)
	must.True(t, alive(pid))

	must.NoError(t, parent.Process.Kill())
	_ = parent.Wait() // it was killed
	eventually(t, "end of the child", func() bool { return !alive(pid) })
	must.True(t, alive(process))
}

// childOf is the one child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	lists, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*", "children"))
	must.NoError(t, err)
	var found []string
	for _, list := range lists {
		data, err := os.ReadFile(list)
		must.NoError(t, err)
		found = append(found, strings.Fields(string(data))...)
	}
	must.SliceLen(t, 1, found)
	child, err := strconv.Atoi(found[0])
	must.NoError(t, err)
	return child
}
