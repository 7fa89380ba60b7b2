package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/queue/rig"
)

// ScatterConfig says how much is measured.
type ScatterConfig struct {
	// Rounds of each, of which the median counts. Default 5.
	Rounds int
	// Time of a round with one program. Default 5 s.
	Time time.Duration
	// Out gets the results, Progress a line per step for a person.
	Out, Progress io.Writer
}

const (
	// scatterBytes is the size of a leaf's answer.
	scatterBytes = 512
	// scatterRPS is the number of connections of the throughput runs.
	scatterRPS = 16
)

// scatterBench is a run of the benchmark.
type scatterBench struct {
	ScatterConfig
	dir                string
	root, naive, fleet string // programs
	consul             *cluster.Consul
}

// Scatters are the parts of the benchmark of scatter/gather by name, in the order in which
// they run.
//
//   - overhead: the time of a request with 16 to 1,000 leaves, of the root and of a fan-out
//     without any feature.
//   - tail: leaves of which one answer in a hundred takes a second, with and without hedges.
//   - memory: 1,000 answers of 1 MiB through a streaming merge; requests to leaves that hang.
//   - rps: requests a second with 16 leaves, also of nginx in front of one leaf.
func Scatters() []string { return []string{"overhead", "tail", "memory", "rps"} }

// Scatter runs a part of the benchmark.
func Scatter(ctx context.Context, part string, cfg ScatterConfig) (err error) {
	if cfg.Rounds == 0 {
		cfg.Rounds = 5
	}
	if cfg.Time == 0 {
		cfg.Time = 5 * time.Second
	}
	b := &scatterBench{ScatterConfig: cfg}
	if b.dir, err = os.MkdirTemp("", "np-bench"); err != nil {
		return fmt.Errorf("scatter: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	for _, p := range []struct {
		path *string
		pkg  string
	}{{&b.root, "agents/scatter"}, {&b.naive, "e2e/scatter/naive"}, {&b.fleet, "e2e/scatter/fleet"}} {
		if *p.path, err = rig.Build(ctx, b.dir, p.pkg); err != nil {
			return err
		}
	}
	run := map[string]func(context.Context) error{"overhead": b.overhead, "tail": b.tail, "memory": b.memory, "rps": b.rps}[part]
	if run == nil {
		return fmt.Errorf("scatter: there is no part %q, only %q", part, Scatters())
	}
	if b.consul, err = cluster.StartConsul(ctx, cluster.ConsulConfig{Progress: b.Progress, LogLevel: "WARN"}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.consul.Stop()) }()
	if err := run(ctx); err != nil {
		return fmt.Errorf("scatter: %s: %w", part, err)
	}
	return nil
}

func (b *scatterBench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.Progress, format+"\n", args...)
}

func (b *scatterBench) print(format string, args ...any) error {
	if _, err := fmt.Fprintf(b.Out, format+"\n", args...); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// scatterServer is a program that is measured.
type scatterServer struct {
	cmd *exec.Cmd
	url string
}

// start starts a program. Ready gets its standard output.
func (b *scatterBench) start(name string, stdin io.Reader, env []string, ready func(*bufio.Reader) error, args ...string) (*scatterServer, error) {
	log, err := os.Create(filepath.Join(b.dir, filepath.Base(name)+".log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stderr = stdin, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err = errors.Join(err, log.Close()); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s := &scatterServer{cmd: cmd}
	read := bufio.NewReader(out)
	if ready != nil {
		if err := ready(read); err != nil {
			return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), s.stop())
		}
	}
	return s, nil
}

// stop ends it.
func (s *scatterServer) stop() error {
	err := s.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(20*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer timer.Stop()
	var exit *exec.ExitError
	if werr := s.cmd.Wait(); werr != nil && !errors.As(werr, &exit) { // those without a drain end by the signal
		err = errors.Join(err, werr)
	}
	return err
}

// leaves starts leaves, and registers them in shards of so many replicas.
func (b *scatterBench) leaves(ctx context.Context, service string, n, replicas int, args ...string) (addresses []string, s *scatterServer, err error) {
	s, err = b.start(b.fleet, nil, nil, func(r *bufio.Reader) error {
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return err
			}
			if line = strings.TrimSpace(line); line == "" {
				return nil
			}
			addresses = append(addresses, line)
		}
	}, append([]string{"-n=" + strconv.Itoa(n)}, args...)...)
	if err != nil {
		return nil, nil, err
	}
	for i, a := range addresses {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			return nil, nil, errors.Join(err, s.stop())
		}
		number, _ := strconv.Atoi(port) // it is one
		err = b.consul.Server(0).Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{
			ID: fmt.Sprintf("%s-%d", service, i), Name: service, Address: host, Port: number, Meta: map[string]string{"shard": strconv.Itoa(i / replicas)},
		}, api.ServiceRegisterOpts{}.WithContext(ctx))
		if err != nil {
			return nil, nil, errors.Join(err, s.stop())
		}
	}
	return addresses, s, nil
}

// route is the text of a configuration with one route.
func route(service, extra string) string {
	if !strings.Contains(extra, "timeout") {
		extra += "  timeout = \"10s\"\n"
	}
	return fmt.Sprintf("route %q {\n  pattern = \"GET /ask\"\n  service = %q\n  merge = \"concat\"\n  max_in_flight = 1000\n%s}\n", service, service, extra)
}

// startRoot starts a root and waits until all shards answer.
func (b *scatterBench) startRoot(ctx context.Context, config string, shards int) (*scatterServer, error) {
	return b.startRootWith(ctx, config, fmt.Sprintf("ok=%d, total=%d", shards, shards))
}

// freeAddress is one on which nobody listens now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// startRootWith waits for a coverage.
func (b *scatterBench) startRootWith(ctx context.Context, config, coverage string) (*scatterServer, error) {
	file := filepath.Join(b.dir, "root.hcl")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s, err := b.start(b.root, nil, b.consul.Env(b.consul.ServerAddr(0)), nil, "agent", "-config="+file, "-listen="+address, "-id=root")
	if err != nil {
		return nil, err
	}
	s.url = "http://" + address
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		_, h, err := scatterGet(ctx, http.DefaultClient, s.url+"/ask")
		if err == nil && h.Get("Scatter-Coverage") == coverage {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("the coverage is not %s: %v", coverage, h), err, s.stop())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// startNaive starts the fan-out without features.
func (b *scatterBench) startNaive(addresses []string) (*scatterServer, error) {
	var s *scatterServer
	url := ""
	s, err := b.start(b.naive, strings.NewReader(strings.Join(addresses, "\n")+"\n\n"), nil, func(r *bufio.Reader) error {
		line, err := r.ReadString('\n')
		url = "http://" + strings.TrimSpace(line)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.url = url
	return s, nil
}

// scatterGet reads an answer, and counts its bytes.
func scatterGet(ctx context.Context, client *http.Client, url string) (int64, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	if err == nil && resp.Trailer.Get("Scatter-Coverage") != "" {
		return n, resp.Trailer, nil
	}
	return n, resp.Header, err
}

// askFor asks for a time, or so often, over so many connections, and returns the latencies.
func askFor(ctx context.Context, url string, conns int, d time.Duration, most int) ([]time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: conns}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var all []time.Duration
	var asked atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for range conns {
		wg.Go(func() {
			var mine []time.Duration
			for ctx.Err() == nil && (d == 0 || time.Now().Before(end)) && (most == 0 || asked.Add(1) <= int64(most)) {
				begin := time.Now()
				if _, _, err := scatterGet(ctx, client, url+"/ask"); err != nil {
					cancel(err)
					return
				}
				mine = append(mine, time.Since(begin))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	slices.Sort(all)
	return all, nil
}

// at is a quantile of sorted latencies, in milliseconds.
func at(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]) / float64(time.Millisecond)
}
