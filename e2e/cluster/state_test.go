package cluster

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

func TestPlanPorts(t *testing.T) {
	cases := map[string]struct {
		block, clients int
		standard       bool
	}{
		"one client":       {block: 0, clients: 1},
		"many clients":     {block: 3, clients: maxClients},
		"last block":       {block: blockCount - 1, clients: 3},
		"standard":         {block: 1, clients: 2, standard: true},
		"default of tests": {block: 7, clients: 2},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p, err := planPorts(tc.block, tc.clients, tc.standard)
			must.NoError(t, err)
			must.Len(t, tc.clients, p.clients)
			lo, hi := firstBlock+tc.block*blockSize, firstBlock+(tc.block+1)*blockSize
			must.Less(t, 32768, hi-1)

			// No port has two uses, neither of an agent nor of tasks.
			seen := map[int]bool{}
			use := func(port int) {
				must.False(t, seen[port], must.Sprintf("port %d twice", port))
				seen[port] = true
				if !tc.standard {
					must.Between(t, lo, port, hi-1)
				}
			}
			for _, port := range p.agents() {
				use(port)
			}
			for _, c := range p.clients {
				must.GreaterEq(t, 100, c.maxDynamic-c.minDynamic+1)
				for port := c.minDynamic; port <= c.maxDynamic; port++ {
					use(port)
				}
			}
			if tc.standard {
				must.Eq(t, 8500, p.consulHTTP)
				must.Eq(t, 4646, p.serverHTTP)
			}
		})
	}
	_, err := planPorts(blockCount, 1, false)
	must.Error(t, err)
}

func TestPortPlan_Free(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	addr, ok := l.Addr().(*net.TCPAddr)
	must.True(t, ok)
	p := portPlan{serverHTTP: addr.Port} // the others are 0, which is always free
	must.ErrorContains(t, portsFree(p.agents()), "in use")
	must.NoError(t, l.Close())
	must.NoError(t, portsFree(p.agents()))
}

// blockPorts is a plan for reserve.
func blockPorts(block int) ([]int, error) {
	p, err := planPorts(block, 2, false)
	return p.agents(), err
}

func TestReserve(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	blocks := map[int]bool{}
	for range 4 {
		id, err := newID()
		must.NoError(t, err)
		s, err := reserve(record{ID: id, Dir: "/tmp/np-" + id}, blockPorts)
		must.NoError(t, err)
		must.False(t, blocks[s.Block])
		blocks[s.Block] = true

		again, err := loadState(s.path)
		must.NoError(t, err)
		must.Eq(t, s.record, again.record)
	}
	dir, err := stateDir()
	must.NoError(t, err)
	all, err := loadStates(dir)
	must.NoError(t, err)
	must.Len(t, 4, all)
	for _, s := range all {
		must.NoError(t, s.remove())
		must.NoError(t, s.remove()) // once more is no error
	}
	all, err = loadStates(dir)
	must.NoError(t, err)
	must.SliceEmpty(t, all)
}

func TestOrphaned(t *testing.T) {
	self, err := identOf(os.Getpid())
	must.NoError(t, err)
	dead := ident{PID: self.PID, Start: self.Start + 1}
	agents := func(id ident) map[string]ident { return map[string]ident{"consul": id} }
	cases := map[string]struct {
		r    record
		want bool
	}{
		"owner lives":            {r: record{Owner: self, Agents: agents(dead)}},
		"owner died":             {r: record{Owner: dead, Agents: agents(self)}, want: true},
		"watchdog at work":       {r: record{Owner: dead, Watchdog: self}},
		"rebooted":               {r: record{Boot: "before", Owner: self}, want: true},
		"up":                     {r: record{Detached: true, Ready: true, Owner: dead, Agents: agents(self)}},
		"up, but all agents end": {r: record{Detached: true, Ready: true, Owner: self, Agents: agents(dead)}, want: true},
		"died in up":             {r: record{Detached: true, Owner: dead, Agents: agents(self)}, want: true},
		"still in up":            {r: record{Detached: true, Owner: self}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.r.Boot == "" {
				tc.r.Boot = "now"
			}
			must.Eq(t, tc.want, tc.r.orphaned("now"))
		})
	}
}

// A sweep kills what belongs to the cluster and nothing else.
func TestSweepAndForget(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	id, err := newID()
	must.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "np-"+id)
	task := filepath.Join(dir, "c0", "a", "5d845b88-5bd5-a761-12b0-12600b4abcc3", "web")
	must.NoError(t, os.MkdirAll(task, 0o755))
	s, err := reserve(record{ID: id, Dir: dir}, blockPorts)
	must.NoError(t, err)

	start := func(dir string, env ...string) *exec.Cmd {
		cmd := exec.Command("sleep", "3600")
		cmd.Dir, cmd.Env = dir, env
		must.NoError(t, cmd.Start())
		return cmd
	}
	agent := start("/", markEnv+"="+id+":client0")
	inTask := start(task, "A=b")
	stranger := start("/", markEnv+"="+id+"0:client0")

	// Children are gone only when they are waited for, which the sweep does
	// not do for those of others; zombies do not count.
	must.NoError(t, s.sweepAndForget(t.Context()))
	must.Error(t, agent.Wait())
	must.Error(t, inTask.Wait())
	must.DirNotExists(t, dir)
	must.FileNotExists(t, s.path)
	must.Eq(t, []string{"5d845b88-5bd5-a761-12b0-12600b4abcc3"}, s.Allocs)

	still, err := identOf(stranger.Process.Pid)
	must.NoError(t, err)
	must.True(t, still.alive())
	must.NoError(t, stranger.Process.Kill())
	must.Error(t, stranger.Wait())
}

func TestCheckSweepDir(t *testing.T) {
	for _, bad := range []string{"", "/", "/tmp", "relative/dir", "/tmp/../etc"} {
		must.Error(t, checkSweepDir(bad), must.Sprint(bad))
	}
	must.NoError(t, checkSweepDir("/tmp/np-1"))
}
