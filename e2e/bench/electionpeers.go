package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/election"
)

const (
	// peerPatience bounds one trial of a peer.
	peerPatience = 4 * time.Minute
	// peerSettle is how long a second contender gets until it waits for the lock:
	// none of them says that it does.
	peerSettle = 1500 * time.Millisecond
	// slowSettle is the same where many of them start at once, and slowSpread is
	// the range of the moment of the fault after it: they renew and ask again
	// every 7 to 16.5 s.
	slowSettle = 8 * time.Second
	slowSpread = 16500 * time.Millisecond
	// slowTrials of each slow fault.
	slowTrials = 5
)

// The peers by name.
const (
	consulLock = "consul-lock"
	apiLock    = "api-lock"
	nomadLock  = "nomad-var-lock"
)

// peers are what people use today for leader election on Consul and Nomad, with
// their own defaults: the command "consul lock", the Go library's api.Lock, and
// the command "nomad var lock". Each trial has two contenders and a lock of its
// own. The commands run a child that says when it was started; the program with
// api.Lock says when Lock returned.
type peers struct {
	bench  *electionBench
	consul *cluster.Consul
	nomad  *cluster.Cluster // for its own lock only, else nil
	helper string

	mu    sync.Mutex
	locks int
	times map[string][]time.Duration // by peer and fault
}

// newPeers builds the helper.
func (b *electionBench) newPeers(ctx context.Context, c *cluster.Consul) (*peers, error) {
	p := &peers{bench: b, consul: c, helper: filepath.Join(b.dir, "peer"), times: map[string][]time.Duration{}}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", p.helper, "github.com/nomad-patterns/nomad-patterns/e2e/bench/cmd/electionpeers")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build peer: %w: %s", err, out)
	}
	return p, nil
}

// contender is a process that waits for a lock, or has it.
type contender struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lead  chan leading // one, when it leads
	done  chan struct{}
}

// leading is what the helper says when it leads.
type leading struct {
	at  time.Duration
	pid int // of the helper
}

// PeerMain is the main function of the helper: "child" says that it was started
// and waits to be killed, and "lock KEY" says that it has the lock of api.Lock
// and gives it back at the end of its standard input.
func PeerMain(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "child":
		if err := sayLeading(); err != nil {
			return err
		}
		select {}
	case len(args) == 2 && args[0] == "lock":
		return holdAPILock(args[1])
	}
	return fmt.Errorf("no such helper: %v", args)
}

// sayLeading tells the time.
func sayLeading() error {
	_, err := fmt.Printf("leading %d %d\n", election.Now(), os.Getpid())
	return err
}

// command is a contender's command, and what finds its cluster.
func (p *peers) command(peer, key string, agent int) (cmd *exec.Cmd, env []string) {
	env = append(p.consul.Env(p.consul.ClientAddr(agent)), p.consul.Mark("peer"))
	switch peer {
	case consulLock:
		return exec.Command(p.consul.Binary(), "lock", "-shell=false", key, p.helper, "child"), env
	case apiLock:
		return exec.Command(p.helper, "lock", key), env
	default:
		return exec.Command(p.nomad.Binary(), "var", "lock", "-shell=false", key, p.helper, "child"), append(p.nomad.Env(), p.nomad.Mark("peer"))
	}
}

// contend starts a contender.
func (p *peers) contend(peer, key string, agent int) (*contender, error) {
	cmd, env := p.command(peer, key, agent)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.OpenFile(filepath.Join(p.consul.LogDir(), "peers.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", peer, err)
	}
	cmd.Stderr = log
	r, w, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", peer, err), log.Close())
	}
	cmd.Stdout = w
	c := &contender{cmd: cmd, lead: make(chan leading, 1), done: make(chan struct{})}
	c.stdin, err = cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err = errors.Join(err, log.Close(), w.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", peer, err), r.Close())
	}
	go func() {
		defer close(c.done)
		defer func() { _ = r.Close() }() // everything has been read
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			f := strings.Fields(lines.Text())
			if len(f) != 3 || f[0] != "leading" {
				continue
			}
			at, err1 := strconv.ParseInt(f[1], 10, 64)
			pid, err2 := strconv.Atoi(f[2])
			if errors.Join(err1, err2) == nil {
				c.lead <- leading{time.Duration(at), pid}
			}
		}
		_ = cmd.Wait() // it was killed, or gave up its lock
	}()
	return c, nil
}

// awaitLead waits until the contender leads.
func (c *contender) awaitLead(ctx context.Context) (leading, error) {
	select {
	case l := <-c.lead:
		return l, nil
	case <-c.done:
		return leading{}, fmt.Errorf("%s ended without leading", c.cmd)
	case <-ctx.Done():
		return leading{}, fmt.Errorf("wait until %s leads: %w", c.cmd, ctx.Err())
	}
}

// end kills the contender with its child.
func (c *contender) end() {
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
	_ = c.stdin.Close()
	<-c.done
}

// hit makes a fault and returns when it was made.
func (c *contender) hit(peer, fault string, l leading) (at time.Duration, err error) {
	switch {
	case fault == "resign" && peer == apiLock:
		at = election.Now()
		return at, c.stdin.Close()
	case fault == "resign":
		at = election.Now()
		return at, c.cmd.Process.Signal(syscall.SIGTERM)
	case fault == "appcrash":
		err = syscall.Kill(l.pid, syscall.SIGKILL)
	default:
		err = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	}
	return election.Now(), err
}

// pair starts a leader at Consul agent 0 and a second contender at agent 1.
func (p *peers) pair(ctx context.Context, peer string) (first, second *contender, l leading, err error) {
	p.mu.Lock()
	p.locks++
	key := fmt.Sprintf("peer/%s/%d", peer, p.locks)
	p.mu.Unlock()
	if first, err = p.contend(peer, key, 0); err != nil {
		return nil, nil, l, err
	}
	if l, err = first.awaitLead(ctx); err == nil {
		second, err = p.contend(peer, key, 1)
	}
	if err != nil {
		first.end()
		return nil, nil, l, err
	}
	return first, second, l, nil
}

// one makes one trial and notes its time.
// The fault comes when the contenders had so much time.
func (p *peers) one(ctx context.Context, peer, fault string, settle time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, peerPatience)
	defer cancel()
	first, second, l, err := p.pair(ctx, peer)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", fault, peer, err)
	}
	defer first.end()
	defer second.end()
	if err := wait(ctx, settle); err != nil {
		return err
	}
	at, err := first.hit(peer, fault, l)
	if err == nil {
		l, err = second.awaitLead(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w", fault, peer, err)
	}
	p.note(peer, fault, l.at-at)
	return nil
}

func (p *peers) note(peer, fault string, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.times[peer+"."+fault] = append(p.times[peer+"."+fault], d)
}

// quick are the faults after which a peer does not wait for a time to be over.
func quick(fault string) []string {
	if fault == "appcrash" {
		// With api.Lock the application is the process that has the session: see
		// sidecarkill.
		return []string{consulLock}
	}
	return []string{consulLock, apiLock}
}

// trial makes one trial of each peer for which the fault is a quick one.
func (p *peers) trial(ctx context.Context, fault string) error {
	for _, peer := range quick(fault) {
		if err := p.one(ctx, peer, fault, peerSettle+rand.N(pauseLimit)); err != nil {
			return err
		}
	}
	return nil
}

// print writes the results of a fault.
func (p *peers) print(fault string) error {
	var errs []error
	for _, peer := range []string{consulLock, apiLock, nomadLock} {
		if times := p.times[peer+"."+fault]; len(times) > 0 {
			errs = append(errs, p.bench.printTimes("election.peer."+peer+"."+fault, times))
		}
	}
	return errors.Join(errs...)
}

// ElectionPeers measures the faults for which the peers take many seconds. The
// trials that leave the node alone run at the same time, each with its own lock.
func ElectionPeers(ctx context.Context, cfg ElectionConfig) (err error) {
	b := &electionBench{ElectionConfig: cfg.withDefaults()}
	if b.dir, err = os.MkdirTemp("", "np-bench"); err != nil {
		return fmt.Errorf("election peers: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	return b.consul(ctx, cluster.ConsulConfig{Clients: 3}, func(c *cluster.Consul) (err error) {
		p, err := b.newPeers(ctx, c)
		if err != nil {
			return err
		}
		p.nomad, err = cluster.Start(ctx, cluster.Config{Docker: cluster.DockerOff, Progress: b.Progress})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.nomad.Stop()) }()
		return errors.Join(p.together(ctx), p.nodeKill(ctx))
	})
}

// together makes all slow trials but those that need a node of their own.
// sidecarkill kills whoever has the lock, with its child if it has one.
func (p *peers) together(ctx context.Context) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	faults := []string{"resign", "appcrash", "sidecarkill"}
	for range slowTrials {
		for _, fault := range faults {
			for _, peer := range []string{consulLock, apiLock, nomadLock} {
				if fault != "sidecarkill" && peer != nomadLock {
					continue // quick
				}
				wg.Go(func() {
					err := p.one(ctx, peer, fault, slowSettle+rand.N(slowSpread))
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, err)
				})
			}
		}
	}
	wg.Wait()
	for _, fault := range faults {
		errs = append(errs, p.print(fault))
	}
	return errors.Join(errs...)
}

// nodeKill kills whoever has the lock together with its Consul agent. To Nomad's
// lock, whose servers watch nothing but its time to live, it is sidecarkill.
func (p *peers) nodeKill(ctx context.Context) error {
	const fault = "nodekill"
	for i := range slowTrials {
		if err := p.nodeTrial(ctx, fault); err != nil {
			return fmt.Errorf("%s: %w", fault, err)
		}
		p.bench.say("election.peer.*.%s: %d of %d", fault, i+1, slowTrials)
	}
	return p.print(fault)
}

// nodeTrial is one kill of a node with a leader of each peer on it.
func (p *peers) nodeTrial(ctx context.Context, fault string) error {
	ctx, cancel := context.WithTimeout(ctx, peerPatience)
	defer cancel()
	var firsts, seconds []*contender
	kinds := []string{consulLock, apiLock}
	for _, peer := range kinds {
		first, second, _, err := p.pair(ctx, peer)
		if err != nil {
			return err
		}
		defer first.end()
		defer second.end()
		firsts, seconds = append(firsts, first), append(seconds, second)
	}
	if err := wait(ctx, peerSettle+rand.N(pauseLimit)); err != nil {
		return err
	}
	for i, peer := range kinds {
		if _, err := firsts[i].hit(peer, fault, leading{}); err != nil {
			return err
		}
	}
	if err := p.consul.KillClient(0); err != nil {
		return err
	}
	at := election.Now()
	for i, peer := range kinds {
		l, err := seconds[i].awaitLead(ctx)
		if err != nil {
			return err
		}
		p.note(peer, fault, l.at-at)
	}
	return p.consul.StartClient(ctx, 0)
}
