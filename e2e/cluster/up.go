package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
)

// Info tells about a cluster that outlives the process that started it.
type Info struct {
	ID         string
	Dir        string
	LogDir     string
	NomadAddr  string // http://127.0.0.1:port
	ConsulAddr string // http://127.0.0.1:port
	Created    time.Time
	// Agents names the agents that run, for example "consul", "server",
	// "client0".
	Agents []string
}

// Env is what a program needs in its environment to find the cluster.
func (i Info) Env() []string {
	return []string{"NOMAD_ADDR=" + i.NomadAddr, "CONSUL_HTTP_ADDR=" + i.ConsulAddr}
}

// Up starts the detached cluster of the given name, or finds it running; then
// already is true and nothing is changed. The standard ports are used if they
// are free. There is one cluster per name and user.
func Up(ctx context.Context, name string, cfg Config) (info Info, already bool, err error) {
	dir, err := stateDir()
	if err != nil {
		return Info{}, false, err
	}
	// Two calls at the same time must not start two clusters.
	unlock, err := lockFile(filepath.Join(dir, ".up.lock"))
	if err != nil {
		return Info{}, false, err
	}
	defer unlock()
	if _, err := Sweep(ctx); err != nil {
		return Info{}, false, err
	}
	if s, err := named(name); err != nil {
		return Info{}, false, err
	} else if s != nil {
		return s.info(), true, nil
	}
	cfg.name, cfg.Detached = name, true
	if !cfg.StandardPorts {
		if cfg.StandardPorts = standardPortsFree(); !cfg.StandardPorts && cfg.Progress != nil {
			say(cfg.Progress, "port 8500 or 4646 is in use, so others are chosen")
		}
	}
	c, err := Start(ctx, cfg)
	if err != nil {
		return Info{}, false, err
	}
	c.transport.CloseIdleConnections()
	return c.state.info(), false, nil
}

// Down stops the detached cluster of the given name and takes everything away.
// It says whether there was one. Progress tells about jobs that did not stop
// by themselves; it may be nil.
func Down(ctx context.Context, name string, progress io.Writer) (found bool, err error) {
	s, err := named(name)
	if err != nil || s == nil {
		return false, err
	}
	if progress == nil {
		progress = io.Discard
	}
	const patience = 30 * time.Second
	transport := newTransport()
	defer transport.CloseIdleConnections()
	nomad, err := nomadapi.NewClient(&nomadapi.Config{Address: s.NomadAddr, HttpClient: defaultClient(transport)})
	if err != nil {
		return true, fmt.Errorf("make nomad client: %w", err)
	}
	if err := s.stopJobs(ctx, nomad, patience); err != nil {
		// What does not stop by itself is killed below.
		say(progress, "stop jobs: %v", err)
	}
	return true, errors.Join(s.endAgents(ctx), s.sweepAndForget(ctx))
}

// Status tells about the detached cluster of the given name; nil: there is none.
func Status(name string) (*Info, error) {
	s, err := named(name)
	if err != nil || s == nil {
		return nil, err
	}
	info := s.info()
	return &info, nil
}

// named finds the detached cluster of a name, or nil.
func named(name string) (*stateFile, error) {
	dir, err := stateDir()
	if err != nil {
		return nil, err
	}
	states, err := loadStates(dir)
	if err != nil {
		return nil, err
	}
	for _, s := range states {
		if s.Detached && s.Name == name {
			return s, nil
		}
	}
	return nil, nil
}

// info is what a state file tells others.
func (s *stateFile) info() Info {
	return Info{
		ID: s.ID, Dir: s.Dir, LogDir: layout{dir: s.Dir}.logDir(),
		NomadAddr: s.NomadAddr, ConsulAddr: s.ConsulAddr, Created: s.Created,
		Agents: s.agentsAlive(),
	}
}

// standardPortsFree says whether nobody listens on 8500 and 4646.
func standardPortsFree() bool {
	for _, port := range []int{8500, 4646} {
		l, err := net.Listen("tcp", loopbackAddr(port))
		if err != nil {
			return false
		}
		if l.Close() != nil {
			return false
		}
	}
	return true
}

// Describe writes what a person needs to use the cluster.
func (i Info) Describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Nomad       %s\nConsul      %s\nConsul UI   %s/ui/\nlogs        %s\n", i.NomadAddr, i.ConsulAddr, i.ConsulAddr, i.LogDir)
	fmt.Fprintf(&b, "agents      %s\n\n", strings.Join(i.Agents, ", "))
	for _, kv := range i.Env() {
		fmt.Fprintf(&b, "export %s\n", kv)
	}
	return b.String()
}

// CheckoutName is the name of this checkout's cluster, for Up, Down, Status:
// two checkouts have two clusters.
func CheckoutName() (string, error) {
	root, err := Checkout()
	if err != nil {
		return "", err
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	return "up:" + root, nil
}
