package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is one agent that this process started.
type process struct {
	name  string
	ident ident
	done  chan struct{} // closed when the agent has ended and is waited for
}

// spawn starts an agent with its output in logs/<name>.log. A goroutine waits
// for it; done tells its end.
func (l layout) spawn(name, dir, binary string, args ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(l.logDir(), name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", name, err)
	}
	cmd := exec.Command(binary, args...)
	cmd.Dir = dir
	cmd.Env = agentEnv(os.Environ(), l.mark(name))
	cmd.Stdout, cmd.Stderr = log, log
	// A session of its own: Ctrl-C in the terminal of the owner does not reach
	// the agents, which are ended in order by the owner or by its watchdog.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	if cerr := log.Close(); err == nil && cerr != nil { // the agent has its own copy
		err = errors.Join(cerr, cmd.Process.Kill(), cmd.Wait())
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	id, err := identOf(cmd.Process.Pid)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), cmd.Process.Kill(), cmd.Wait())
	}
	p := &process{name: name, ident: id, done: make(chan struct{})}
	go func() {
		// The exit code of an agent says nothing that its log does not.
		_ = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// agentEnv is the environment of an agent: that of this process without what
// would lead the agent or its tasks to some other cluster, and with the mark.
func agentEnv(environ []string, mark string) []string {
	var env []string
	for _, kv := range environ {
		key, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(key, "NOMAD_") || strings.HasPrefix(key, "CONSUL_") || strings.HasPrefix(key, "VAULT_") {
			continue
		}
		env = append(env, kv)
	}
	return append(env, markEnv+"="+mark)
}

// running says whether the agent has not ended yet.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// end stops the agent: with SIGKILL at once, or with SIGINT and with SIGKILL
// when the patience is over. It returns when the agent is gone.
func (p *process) end(kill bool, patience time.Duration) error {
	if !kill {
		if err := p.ident.signal(syscall.SIGINT); err != nil {
			return fmt.Errorf("stop %s: %w", p.name, err)
		}
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-p.done:
			return nil
		case <-timer.C:
		}
	}
	if err := p.ident.signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.done
	return nil
}
