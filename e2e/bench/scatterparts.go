package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/server"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
)

// overhead compares the root with the fan-out without features, turn by turn.
func (b *scatterBench) overhead(ctx context.Context) (err error) {
	for _, n := range []int{16, 64, 256, 1000} {
		if err := b.overheadOf(ctx, n); err != nil {
			return fmt.Errorf("%d leaves: %w", n, err)
		}
	}
	return nil
}

func (b *scatterBench) overheadOf(ctx context.Context, n int) (err error) {
	service := fmt.Sprint("leaves", n)
	// Two replicas of each shard, so that hedges are possible; the other one asks the first.
	addresses, fleet, err := b.leaves(ctx, service, 2*n, 2, "-bytes="+strconv.Itoa(scatterBytes))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.stop()) }()
	var first []string
	for i := 0; i < len(addresses); i += 2 {
		first = append(first, addresses[i])
	}
	root, err := b.startRoot(ctx, route(service, ""), n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.stop()) }()
	naive, err := b.startNaive(first)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, naive.stop()) }()
	var p50, p99, naive50, naive99, root50, root99 []float64
	for round := range b.Rounds + 1 {
		theirs, err := askFor(ctx, naive.url, 1, b.Time, 0)
		if err != nil {
			return err
		}
		ours, err := askFor(ctx, root.url, 1, b.Time, 0)
		if err != nil {
			return err
		}
		if round == 0 {
			continue // warm
		}
		naive50, naive99 = append(naive50, at(theirs, 0.5)), append(naive99, at(theirs, 0.99))
		root50, root99 = append(root50, at(ours, 0.5)), append(root99, at(ours, 0.99))
		p50 = append(p50, at(ours, 0.5)/at(theirs, 0.5))
		p99 = append(p99, at(ours, 0.99)/at(theirs, 0.99))
		b.say("%d leaves: naive p50 %.2f p99 %.2f ms, root p50 %.2f p99 %.2f ms", n, at(theirs, 0.5), at(theirs, 0.99), at(ours, 0.5), at(ours, 0.99))
	}
	return b.print("# scatter.overhead.%d: naive p50 %.3f p99 %.3f ms, root p50 %.3f p99 %.3f ms\nbench scatter.overhead.%d.p50 %.3f ratio\nbench scatter.overhead.%d.p99 %.3f ratio",
		n, middle(naive50), middle(naive99), middle(root50), middle(root99), n, middle(p50), n, middle(p99))
}

// tail asks leaves that are slow now and then, with and without hedges.
func (b *scatterBench) tail(ctx context.Context) (err error) {
	const shards, replicas, conns, requests = 100, 2, 2, 1500
	_, fleet, err := b.leaves(ctx, "slow", shards*replicas, replicas, "-slow=0.01", "-slow-time=1s")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.stop()) }()
	var gains, extras, with, without []float64
	for range b.Rounds {
		p99 := map[bool]float64{}
		extra := 0.0
		for _, hedge := range []bool{false, true} {
			root, err := b.startRoot(ctx, route("slow", fmt.Sprintf("  hedge {\n    enabled = %v\n  }\n", hedge)), shards)
			if err != nil {
				return err
			}
			n := requests
			if !hedge {
				n /= 5 // most of them take a second
			}
			took, err := askFor(ctx, root.url, conns, 0, n)
			if err == nil {
				var st server.RouteStatus
				st, err = b.status(ctx, root)
				if c := st.Counters; hedge && err == nil {
					extra = 100 * float64(c.Hedged+c.Retried) / float64(c.Asked)
				}
			}
			if err = errors.Join(err, root.stop()); err != nil {
				return err
			}
			p99[hedge] = at(took, 0.99)
			b.say("tail, hedge %v: p50 %.1f p99 %.1f p99.9 %.1f ms, %.2f %% more requests", hedge, at(took, 0.5), at(took, 0.99), at(took, 0.999), extra)
		}
		gains, extras = append(gains, p99[false]/p99[true]), append(extras, extra)
		with, without = append(with, p99[true]), append(without, p99[false])
	}
	return b.print("# scatter.tail: p99 without hedges %.1f ms, with %.1f ms\nbench scatter.tail.gain %.1f ratio\nbench scatter.tail.extra %.2f percent",
		middle(without), middle(with), middle(gains), middle(extras))
}

// status asks the root about its only route.
func (b *scatterBench) status(ctx context.Context, root *scatterServer) (server.RouteStatus, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, root.url+"/v1/routes", nil)
	if err != nil {
		return server.RouteStatus{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return server.RouteStatus{}, err
	}
	var all struct {
		Routes []server.RouteStatus `json:"routes"`
	}
	err = json.NewDecoder(resp.Body).Decode(&all)
	if err = errors.Join(err, resp.Body.Close()); err != nil || len(all.Routes) != 1 {
		return server.RouteStatus{}, errors.Join(err, errors.New("it has not one route"))
	}
	return all.Routes[0], nil
}

// memory lets large answers through, and asks leaves that hang.
func (b *scatterBench) memory(ctx context.Context) error {
	return errors.Join(b.large(ctx), b.hanging(ctx))
}

func (b *scatterBench) large(ctx context.Context) (err error) {
	const n = 1000
	_, fleet, err := b.leaves(ctx, "large", n, 1, "-bytes="+strconv.Itoa(1<<20))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.stop()) }()
	root, err := b.startRoot(ctx, route("large", "  stream = true\n  max_partial = 2097152\n  memory = 16777216\n  timeout = \"30s\"\n"), n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.stop()) }()
	for range b.Rounds {
		begin := time.Now()
		got, _, err := scatterGet(ctx, http.DefaultClient, root.url+"/ask")
		if err != nil {
			return err
		}
		b.say("%d MiB of %d leaves in %s", got>>20, n, time.Since(begin).Round(time.Millisecond))
	}
	peak, err := memoryOf(root.cmd.Process.Pid, "VmHWM:")
	if err != nil {
		return err
	}
	return b.print("bench scatter.memory %.1f MiB", peak)
}

func (b *scatterBench) hanging(ctx context.Context) (err error) {
	const n, requests = 20, 10_000
	_, fleet, err := b.leaves(ctx, "hanging", n, 1, "-hang=0.1")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.stop()) }()
	config := route("hanging", "  min_coverage = 0.9\n  wait = 0.01\n  timeout = \"500ms\"\n")
	root, err := b.startRootWith(ctx, config, "ok=18, total=20")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.stop()) }()
	before, err := b.footprint(ctx, root)
	if err != nil {
		return err
	}
	if _, err := askFor(ctx, root.url, 8, 0, requests); err != nil {
		return err
	}
	var after [2]float64
	deadline := time.Now().Add(time.Minute)
	for {
		if after, err = b.footprint(ctx, root); err != nil {
			return err
		}
		if after[0] <= before[0]+2 || time.Now().After(deadline) {
			break
		}
		time.Sleep(time.Second) // nothing announces it
	}
	return b.print("# scatter.hang: %d requests; goroutines before %.0f, after %.0f; heap before %.1f, after %.1f MiB\nbench scatter.hang.goroutines %.0f count\nbench scatter.hang.heap %.1f MiB",
		requests, before[0], after[0], before[1], after[1], after[0]-before[0], after[1]-before[1])
}

// footprint is goroutines and MiB of heap in use, as the root's metrics tell.
func (b *scatterBench) footprint(ctx context.Context, root *scatterServer) (out [2]float64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, root.url+"/metrics", nil)
	if err != nil {
		return out, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return out, err
	}
	text, err := io.ReadAll(resp.Body)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		v, _ := strconv.ParseFloat(value, 64) // comments are none
		switch name {
		case "go_goroutines":
			out[0] = v
		case "go_memstats_heap_inuse_bytes":
			out[1] = v / (1 << 20)
		}
	}
	return out, errors.Join(err, resp.Body.Close())
}

// rps measures throughput over several connections.
func (b *scatterBench) rps(ctx context.Context) (err error) {
	const n = 16
	addresses, fleet, err := b.leaves(ctx, "rps", n, 1, "-bytes="+strconv.Itoa(scatterBytes))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.stop()) }()
	root, err := b.startRoot(ctx, route("rps", ""), n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.stop()) }()
	naive, err := b.startNaive(addresses)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, naive.stop()) }()
	nginx, err := b.startNginx(ctx, addresses[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nginx.stop()) }()
	rate, cpu := map[string][]float64{}, map[string][]float64{}
	for round := range b.Rounds + 1 {
		for _, p := range []struct {
			name string
			s    *scatterServer
		}{{"naive", naive}, {"root", root}, {"nginx", nginx}} {
			before, err := footprintOf(p.s.cmd.Process.Pid, "1")
			if err != nil {
				return err
			}
			took, err := askFor(ctx, p.s.url, scatterRPS, b.Time, 0)
			if err != nil {
				return err
			}
			after, err := footprintOf(p.s.cmd.Process.Pid, "1")
			if err != nil {
				return err
			}
			if round > 0 {
				rate[p.name] = append(rate[p.name], float64(len(took))/b.Time.Seconds())
				cpu[p.name] = append(cpu[p.name], float64((after.cpu-before.cpu).Microseconds())/float64(len(took)))
			}
		}
	}
	for _, name := range []string{"root", "naive", "nginx"} {
		key := "scatter.rps"
		if name != "root" {
			key += "." + name
		}
		if err := b.print("bench %s %.0f req/s\nbench %s.cpu %.1f us", key, middle(rate[name]), key, middle(cpu[name])); err != nil {
			return err
		}
	}
	return nil
}

// startNginx puts nginx in front of one leaf: the ceiling.
func (b *scatterBench) startNginx(ctx context.Context, leaf string) (*scatterServer, error) {
	if err := cluster.Require(ctx, b.Progress, cluster.Nginx()); err != nil {
		return nil, err
	}
	path, err := exec.LookPath("nginx")
	if err != nil {
		path = cluster.Nginx().Probe
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "nginx.conf")
	err = os.WriteFile(file, fmt.Appendf(nil, `daemon off;
master_process off;
pid %[1]s/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  upstream leaf {
    server %[2]s;
    keepalive 64;
  }
  server {
    listen %[3]s;
    location / {
      proxy_pass http://leaf;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
  }
}
`, b.dir, leaf, address), 0o600)
	if err != nil {
		return nil, err
	}
	s, err := b.start(path, nil, nil, nil, "-c", file)
	if err != nil {
		return nil, err
	}
	s.url = "http://" + address
	for try := 0; ; try++ {
		if _, _, err = scatterGet(ctx, http.DefaultClient, s.url+"/ask"); err == nil {
			return s, nil
		}
		if try == 100 {
			return nil, errors.Join(fmt.Errorf("nginx does not answer: %w", err), s.stop())
		}
		time.Sleep(50 * time.Millisecond) // nothing announces it
	}
}
