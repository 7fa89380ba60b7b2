package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/rig"
)

// ElectionConfig says how much is measured.
type ElectionConfig struct {
	// Trials of each fault. Default 50.
	Trials int
	// PeerTrials of each fault of those whom the elector is compared with.
	// Default 10; the slow ones are tried 5 times.
	PeerTrials int
	// Injections of the soak run. Default 500.
	Injections int
	// Out gets the results, Progress a line per step for a person.
	Out, Progress io.Writer
}

func (c ElectionConfig) withDefaults() ElectionConfig {
	for _, d := range []struct {
		value  *int
		preset int
	}{{&c.Trials, 50}, {&c.PeerTrials, 10}, {&c.Injections, 500}} {
		if *d.value == 0 {
			*d.value = d.preset
		}
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	return c
}

// election is a run of the benchmark.
type electionBench struct {
	ElectionConfig
	dir     string // for programs and sockets
	elector string // program
}

// Elections are the parts of the benchmark of leader election by name, in the
// order in which they run.
//
//   - resign, appcrash, sidecarkill, nodekill: from a fault of the leader to the
//     event by which another elector says that it leads.
//   - idle: what electors cost that have nothing to do.
//   - soak: overlapping leaderships and stale writes under faults at random.
func Elections() []string {
	return []string{"resign", "appcrash", "sidecarkill", "nodekill", "idle", "soak"}
}

// Election runs a part of the benchmark on a Consul of its own.
func Election(ctx context.Context, part string, cfg ElectionConfig) (err error) {
	b := &electionBench{ElectionConfig: cfg.withDefaults()}
	if b.dir, err = os.MkdirTemp("", "np-bench"); err != nil {
		return fmt.Errorf("election: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if err := b.build(ctx); err != nil {
		return err
	}
	run := map[string]func(context.Context) error{
		"resign": b.resign, "appcrash": b.appCrash, "sidecarkill": b.sidecarKill, "nodekill": b.nodeKill, "idle": b.idle, "soak": b.soak,
	}[part]
	if run == nil {
		return fmt.Errorf("election: there is no part %q, only %q", part, Elections())
	}
	if err := run(ctx); err != nil {
		return fmt.Errorf("election: %s: %w", part, err)
	}
	return nil
}

// build compiles the elector.
func (b *electionBench) build(ctx context.Context) error {
	b.elector = filepath.Join(b.dir, "elector")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.elector, "github.com/nomad-patterns/nomad-patterns/agents/elector")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build elector: %w: %s", err, out)
	}
	return nil
}

// say writes a line for a person.
func (b *electionBench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.Progress, format+"\n", args...)
}

// print writes results.
func (b *electionBench) print(format string, args ...any) error {
	if _, err := fmt.Fprintf(b.Out, format+"\n", args...); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// printTimes writes the quantiles of a measurement.
func (b *electionBench) printTimes(name string, values []time.Duration) error {
	if len(values) == 0 {
		return fmt.Errorf("no values of %s", name)
	}
	return b.print("# %s: %d trials, least %.2f ms\nbench %s.p50 %.2f ms\nbench %s.p99 %.2f ms\nbench %s.max %.2f ms",
		name, len(values), ms(quantile(values, 0)), name, ms(median(values)), name, ms(quantile(values, 0.99)), name, ms(quantile(values, 1)))
}

// consulSettle is how long a new Consul is left alone. When a Consul server has
// joined, an agent waits up to 3 s before its next full sync, and tells the servers
// of no check meanwhile, so a fault in the first seconds would measure the start of
// Consul.
const consulSettle = 10 * time.Second

// consul runs a part on a fresh Consul of three servers.
func (b *electionBench) consul(ctx context.Context, cfg cluster.ConsulConfig, run func(*cluster.Consul) error) (err error) {
	cfg.Servers, cfg.Progress = 3, b.Progress
	c, err := cluster.StartConsul(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := wait(ctx, consulSettle); err != nil {
		return err
	}
	return run(c)
}

// soak injects faults of all kinds into candidates of all modes.
func (b *electionBench) soak(ctx context.Context) error {
	candidate, err := rig.Build(ctx, b.dir)
	if err != nil {
		return err
	}
	return b.consul(ctx, cluster.ConsulConfig{Clients: 3}, func(c *cluster.Consul) error {
		seed := uint64(time.Now().UnixNano())
		r, err := rig.Soak(ctx, rig.SoakConfig{
			Consul: c, Binary: candidate, Seed: seed, Injections: b.Injections,
			MaxTime: time.Duration(b.Injections) * 3 * time.Second, Progress: b.Progress,
		})
		if err != nil {
			return err
		}
		for _, list := range [][]string{r.Overlaps, r.StaleAccepted, r.Problems} {
			for _, problem := range list {
				if err := b.print("# PROBLEM: %s", problem); err != nil {
					return err
				}
			}
		}
		err = b.print("# election.overlap, election.fence: %d injections %v, and besides %v; terms %v; fenced writes %v, %d stale ones refused by the register outside; "+
			"shortest time between two leaders %.1f ms; linearizable and tokens rising: %t\n"+
			"bench election.injections %d count\nbench election.overlap %d count\nbench election.fence %d count",
			r.Total, r.Injections, r.Beside, r.Terms, r.Writes, r.Stale, ms(r.Gap), len(r.Problems) == 0, r.Total, len(r.Overlaps), len(r.StaleAccepted))
		switch problems := len(r.Overlaps) + len(r.StaleAccepted) + len(r.Problems); {
		case err != nil:
			return err
		case problems > 0:
			return fmt.Errorf("%d problems", problems)
		case r.Total < b.Injections:
			return fmt.Errorf("only %d of %d injections in time", r.Total, b.Injections)
		}
		return nil
	})
}
