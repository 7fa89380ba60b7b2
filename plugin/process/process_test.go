package process

import (
	"io/fs"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// patience is how long a test waits for something that happens at once unless
// the code is broken. No test measures it.
const patience = 20 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}

// A process is no other one that has its number, and a zombie has ended although
// its number is still there.
func TestID(t *testing.T) {
	self, err := Self()
	must.NoError(t, err)
	must.False(t, self.Dead())
	must.True(t, ID{PID: self.PID, Start: self.Start - 1, Boot: self.Boot}.Dead())
	must.True(t, ID{PID: self.PID, Start: self.Start, Boot: "before"}.Dead())
	_, err = Find(1 << 30)
	must.ErrorIs(t, err, fs.ErrNotExist)

	cmd := exec.Command("/bin/sh", "-c", "sleep 300")
	must.NoError(t, cmd.Start())
	p, err := Find(cmd.Process.Pid)
	must.NoError(t, err)
	must.False(t, p.Dead())
	must.NoError(t, cmd.Process.Kill())
	eventually(t, "death before it is collected", p.Dead)
	_ = cmd.Wait() // it was killed
	must.True(t, p.Dead())
}

// What a process has started is found to the last.
func TestDescendants(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "sh -c 'sleep 300 & wait' & wait")
	must.NoError(t, cmd.Start())
	var all []int
	eventually(t, "grandchild", func() bool {
		var err error
		all, err = Descendants(cmd.Process.Pid)
		must.NoError(t, err)
		return len(all) == 2
	})
	for _, pid := range append(all, cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended with its children
	}
	_ = cmd.Wait() // it was killed
	left, err := Descendants(cmd.Process.Pid)
	must.NoError(t, err)
	must.SliceEmpty(t, left)
}

func TestParseStat(t *testing.T) {
	cases := map[string]struct {
		text string
		want stat
		err  string
	}{
		"plain":     {text: "7 (init) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 1000 10", want: stat{"S", 1, 42}},
		"odd name":  {text: "7 (a) b) Z (c) R 3 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 1000 10", want: stat{"R", 3, 42}},
		"short":     {text: "1 (init) S 0", err: "only 2 fields"},
		"empty":     {err: "only 0 fields"},
		"no parent": {text: "1 (init) S x 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4 1000 10", err: "parent"},
		"no time":   {text: "1 (init) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 x 1000 10", err: "start time"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat(tc.text)
			if tc.err != "" {
				must.ErrorContains(t, err, tc.err)
				return
			}
			must.NoError(t, err)
			must.True(t, tc.want == got, must.Sprintf("%+v", got))
		})
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("1 (init) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 1000 10")
	f.Add("1 (a) b) Z) R 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 1000 10")
	f.Add("1 (init) S 0")
	f.Add(")")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseStat(text)
		if err == nil && s.state == "" {
			t.Fatal("no state")
		}
	})
}
