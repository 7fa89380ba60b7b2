package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
)

const (
	overheadTasks  = 60 // of each driver
	overheadWarmup = 3  // of each driver, not counted
	overheadLimit  = 6 * time.Minute
)

// Overhead measures what the lifecycle driver adds to the start and to the stop
// of a raw_exec task without hooks: the median over 60 tasks of each driver, one
// after the other and alternating. The times are the Nomad client's own, from its
// task events: start is from "Task Setup" to "Started", stop from "Killing" to
// "Killed".
//
// Results go to out as "bench plugin.start.overhead <ms> ms" and the same for stop.
func Overhead(ctx context.Context, c *cluster.Cluster, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, overheadLimit)
	defer cancel()
	drivers := []string{"raw_exec", "lifecycle-raw_exec"}
	starts, stops := make([][]time.Duration, 2), make([][]time.Duration, 2)
	for n := range overheadWarmup + overheadTasks {
		for i := range drivers {
			// Who goes first alternates as well.
			i = (i + n) % 2
			start, stop, err := oneTask(ctx, c.Nomad(), fmt.Sprintf("bench-overhead-%d-%d", i, n), drivers[i])
			if err != nil {
				return fmt.Errorf("overhead of %s: %w", drivers[i], err)
			}
			if n >= overheadWarmup {
				starts[i], stops[i] = append(starts[i], start), append(stops[i], stop)
			}
		}
	}
	for _, m := range []struct {
		name   string
		values [][]time.Duration
	}{{"plugin.start.overhead", starts}, {"plugin.stop.overhead", stops}} {
		stock, ours := median(m.values[0]), median(m.values[1])
		_, err := fmt.Fprintf(out, "# %s: %d tasks each; stock median %.2f ms (p90 %.2f), ours %.2f ms (p90 %.2f)\nbench %s %.2f ms\n",
			m.name, overheadTasks, ms(stock), ms(quantile(m.values[0], 0.9)), ms(ours), ms(quantile(m.values[1], 0.9)), m.name, ms(ours-stock))
		if err != nil {
			return fmt.Errorf("write results: %w", err)
		}
	}
	return nil
}

// oneTask runs a task until it is up, stops it, and returns how long both took.
func oneTask(ctx context.Context, nomad *nomadapi.Client, name, driver string) (start, stop time.Duration, err error) {
	defer func() {
		_, _, e := nomad.Jobs().Deregister(name, true, (&nomadapi.WriteOptions{}).WithContext(context.WithoutCancel(ctx)))
		err = errors.Join(err, e)
	}()
	if err := register(ctx, nomad, sleepers(name, driver, 1)); err != nil {
		return 0, 0, err
	}
	if _, err := awaitAllocs(ctx, nomad, name, 1, func(s *nomadapi.TaskState) bool { return s.State == "running" }); err != nil {
		return 0, 0, err
	}
	if _, _, err := nomad.Jobs().Deregister(name, false, (&nomadapi.WriteOptions{}).WithContext(ctx)); err != nil {
		return 0, 0, err
	}
	alloc, err := awaitAllocs(ctx, nomad, name, 1, func(s *nomadapi.TaskState) bool { return s.State == "dead" && eventTime(s, nomadapi.TaskKilled) > 0 })
	if err != nil {
		return 0, 0, err
	}
	s := alloc[0].TaskStates[taskName]
	return between(s, nomadapi.TaskSetup, nomadapi.TaskStarted), between(s, nomadapi.TaskKilling, nomadapi.TaskKilled), nil
}

// between is the time between two task events, as the client noted them.
func between(s *nomadapi.TaskState, from, to string) time.Duration {
	return time.Duration(eventTime(s, to) - eventTime(s, from))
}

// eventTime is when the task had its first event of the type, in nanoseconds; 0
// if it had none.
func eventTime(s *nomadapi.TaskState, typ string) int64 {
	for _, e := range s.Events {
		if e.Type == typ {
			return e.Time
		}
	}
	return 0
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median(v []time.Duration) time.Duration { return quantile(v, 0.5) }

// quantile is the value below which the share q of all values lies.
func quantile(v []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(v))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}
