package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
)

const (
	footprintTasks = 100
	footprintLimit = 6 * time.Minute
)

// Footprint measures one process of the lifecycle plugin with 100 running raw_exec
// tasks: its resident memory, its goroutines for each task, and whether they are gone
// when the tasks are.
//
// Results go to out as "bench plugin.rss <MiB> MiB", "bench plugin.goroutines.pertask
// <n> count" and "bench plugin.goroutines.left <n> count".
func Footprint(ctx context.Context, c *cluster.Cluster, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, footprintLimit)
	defer cancel()
	const name = "bench-footprint"
	before, err := pluginStatus(ctx, c)
	if err != nil {
		return fmt.Errorf("footprint: %w", err)
	}
	defer func() {
		_, _, e := c.Nomad().Jobs().Deregister(name, true, (&nomadapi.WriteOptions{}).WithContext(context.WithoutCancel(ctx)))
		err = errors.Join(err, e)
	}()
	if err := register(ctx, c.Nomad(), sleepers(name, "lifecycle-raw_exec", footprintTasks)); err != nil {
		return fmt.Errorf("footprint: %w", err)
	}
	if _, err := awaitAllocs(ctx, c.Nomad(), name, footprintTasks, func(s *nomadapi.TaskState) bool { return s.State == "running" }); err != nil {
		return fmt.Errorf("footprint: %w", err)
	}
	during, err := pluginStatus(ctx, c)
	if err != nil {
		return fmt.Errorf("footprint: %w", err)
	}
	if _, _, err := c.Nomad().Jobs().Deregister(name, false, (&nomadapi.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("footprint: %w", err)
	}
	if _, err := awaitAllocs(ctx, c.Nomad(), name, footprintTasks, func(s *nomadapi.TaskState) bool { return s.State == "dead" }); err != nil {
		return fmt.Errorf("footprint: %w", err)
	}
	// Nomad destroys a task, and closes its streams, a little after it is dead.
	after := during
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		if after, err = pluginStatus(ctx, c); err != nil {
			return fmt.Errorf("footprint: %w", err)
		}
		if after.tasks == 0 && after.goroutines <= before.goroutines {
			break
		}
	}
	_, err = fmt.Fprintf(out, "# plugin.rss: %d tasks; before %.1f MiB, after %.1f MiB; heap with the tasks %.1f MiB\n"+
		"bench plugin.rss %.1f MiB\n"+
		"# plugin.goroutines: before %d, with the tasks %d, after %d\n"+
		"bench plugin.goroutines.pertask %.2f count\nbench plugin.goroutines.left %d count\n",
		during.tasks, before.rss, after.rss, during.heap, during.rss,
		before.goroutines, during.goroutines, after.goroutines,
		float64(during.goroutines-before.goroutines)/footprintTasks, after.goroutines-before.goroutines)
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

type status struct {
	tasks, goroutines int
	heap, rss         float64 // MiB
}

var statusLine = regexp.MustCompile(`plugin status:.*`)

// pluginStatus asks the plugin process of the first client for its status: it
// answers SIGUSR1 with a line in the agent's log.
func pluginStatus(ctx context.Context, c *cluster.Cluster) (status, error) {
	pids, err := c.PluginPIDs(0, "raw_exec")
	if err != nil || len(pids) == 0 {
		return status{}, fmt.Errorf("find the plugin's process: %w", errors.Join(err, errors.New("none")))
	}
	log := filepath.Join(c.LogDir(), "client0.log")
	seen, err := countStatus(log)
	if err != nil {
		return status{}, err
	}
	if err := syscall.Kill(pids[0], syscall.SIGUSR1); err != nil {
		return status{}, fmt.Errorf("signal the plugin: %w", err)
	}
	for {
		lines, err := countStatus(log)
		if err != nil {
			return status{}, err
		}
		if len(lines) > len(seen) {
			s, err := parseStatus(lines[len(lines)-1])
			if err != nil {
				return status{}, err
			}
			s.rss, err = rss(pids[0])
			return s, err
		}
		select {
		case <-ctx.Done():
			return status{}, fmt.Errorf("wait for the plugin's status: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond): // the log has no event to wait for
		}
	}
}

func countStatus(log string) ([]string, error) {
	data, err := os.ReadFile(log)
	if err != nil {
		return nil, fmt.Errorf("read the agent's log: %w", err)
	}
	return statusLine.FindAllString(string(data), -1), nil
}

func parseStatus(line string) (status, error) {
	var s status
	for _, word := range strings.Fields(line) {
		key, value, _ := strings.Cut(word, "=")
		n, err := strconv.ParseFloat(strings.Trim(value, `"`), 64)
		if err != nil {
			continue // not a number: not one of ours
		}
		switch key {
		case "tasks":
			s.tasks = int(n)
		case "goroutines":
			s.goroutines = int(n)
		case "heap_bytes":
			s.heap = n / (1 << 20)
		}
	}
	if s.goroutines == 0 {
		return s, fmt.Errorf("no status in %q", line)
	}
	return s, nil
}

// rss is the resident memory of a process in MiB.
func rss(pid int) (float64, error) { return memoryOf(pid, "VmRSS:") }

// memoryOf reads a line of a process' status, such as "VmHWM:", in MiB.
func memoryOf(pid int, name string) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	for sc := bufio.NewScanner(bytes.NewReader(data)); sc.Scan(); {
		if fields := strings.Fields(sc.Text()); len(fields) >= 2 && fields[0] == name {
			kib, err := strconv.ParseFloat(fields[1], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("no %s for process %d", name, pid)
}
