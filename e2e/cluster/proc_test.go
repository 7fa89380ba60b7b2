package cluster

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
)

func TestParseStat(t *testing.T) {
	const tail = " S 41 42 42 34816 42 0 0 0 0 0 1 2 0 0 20 0 1 0 9876 100 200"
	cases := map[string]struct {
		line     string
		want     ident
		ppid     int
		zombie   bool
		terminal bool
		err      bool
	}{
		"plain":              {line: "42 (sleep)" + tail, want: ident{42, 9876}, ppid: 41, terminal: true},
		"name with brackets": {line: "42 (a) (b c)" + tail, want: ident{42, 9876}, ppid: 41, terminal: true},
		"zombie":             {line: "7 (x) Z 1 7 7 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 5 0 0", want: ident{7, 5}, ppid: 1, zombie: true},
		"no name":            {line: "42 sleep S 41", err: true},
		"cut off":            {line: "42 (sleep) S 41", err: true},
		"empty":              {line: "", err: true},
		"no number":          {line: "x (sleep)" + tail, err: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p, err := parseStat(tc.line)
			if tc.err {
				must.Error(t, err)
				return
			}
			must.NoError(t, err)
			must.Eq(t, tc.want, p.ident)
			must.Eq(t, tc.ppid, p.ppid)
			must.Eq(t, tc.zombie, p.zombie)
			must.Eq(t, tc.terminal, p.terminal)
		})
	}
}

func TestIdent(t *testing.T) {
	cmd := exec.Command("sleep", "3600")
	must.NoError(t, cmd.Start())
	id, err := identOf(cmd.Process.Pid)
	must.NoError(t, err)
	must.True(t, id.alive())

	// The same PID with another start time is another process: it is neither
	// called alive nor signalled.
	other := ident{PID: id.PID, Start: id.Start + 1}
	must.False(t, other.alive())
	must.NoError(t, other.signal(syscall.SIGKILL))
	must.True(t, id.alive())

	must.NoError(t, id.signal(syscall.SIGKILL))
	must.Error(t, cmd.Wait())
	must.False(t, id.alive())
	must.NoError(t, id.signal(syscall.SIGKILL))
	must.False(t, ident{}.alive())
}

func TestReadProcess_Self(t *testing.T) {
	p, err := readProcess(os.Getpid())
	must.NoError(t, err)
	must.Eq(t, os.Args, p.args)
	must.Eq(t, os.Getppid(), p.ppid)
	dir, err := os.Getwd()
	must.NoError(t, err)
	must.Eq(t, dir, p.cwd)
}

func TestBelongsTo(t *testing.T) {
	const (
		dir   = "/tmp/np-1"
		alloc = "5d845b88-5bd5-a761-12b0-12600b4abcc3"
	)
	cases := map[string]struct {
		p    procInfo
		want bool
	}{
		"agent":               {p: procInfo{environ: []string{"A=b", "NOMAD_PATTERNS_CLUSTER=c1:client0"}}, want: true},
		"other cluster":       {p: procInfo{environ: []string{"NOMAD_PATTERNS_CLUSTER=c12:client0"}}},
		"task in its cgroup":  {p: procInfo{cgroup: "4:memory:/nomad/" + alloc + ".web\n", terminal: true}, want: true},
		"task by directory":   {p: procInfo{cwd: dir + "/c0/a/x/web"}, want: true},
		"longer name":         {p: procInfo{cwd: "/tmp/np-12/c0"}},
		"task by environment": {p: procInfo{environ: []string{"NOMAD_TASK_DIR=/tmp/np-1/c0/a/x/web/local"}}, want: true},
		"task by root":        {p: procInfo{root: dir + "/c0/a/x/web"}, want: true},
		"program of a task":   {p: procInfo{exe: dir + "/c0/a/x/web/local/app"}, want: true},
		"shell of a person":   {p: procInfo{cwd: dir + "/logs", terminal: true}},
		"command line only":   {p: procInfo{args: []string{"tail", "-f", dir + "/logs/server.log"}}},
		"nothing known":       {p: procInfo{}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			must.Eq(t, tc.want, tc.p.belongsTo("c1", dir, []string{alloc}))
		})
	}
}

func TestIsPlugin(t *testing.T) {
	cases := map[string]struct {
		args []string
		want bool
	}{
		"plugin":         {args: []string{"/tmp/np-1/plugins/lifecycle-docker", "-inner=docker"}, want: true},
		"bare":           {args: []string{"/tmp/np-1/plugins/lifecycle-docker"}, want: true},
		"executor":       {args: []string{"/bin/lifecycle-docker", "executor", "{}"}},
		"logs collector": {args: []string{"/tmp/np-1/plugins/lifecycle-docker", "docker_logger"}},
		"other driver":   {args: []string{"/tmp/np-1/plugins/lifecycle-exec", "-inner=exec"}},
		"kernel thread":  {},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			must.Eq(t, tc.want, procInfo{args: tc.args}.isPlugin("lifecycle-docker"))
		})
	}
}
