// Package bench measures the lifecycle plugin against the drivers of stock Nomad, in a
// real cluster. Each benchmark writes lines "bench <name> <number> <unit>"; lines that
// begin with "# " explain them.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/demo/graceful"
	"github.com/nomad-patterns/nomad-patterns/e2e/load"
)

// The load and the work of [Graceful].
const (
	gracefulRounds    = 5 // of each variant
	gracefulRestarts  = 4 // rolling restarts in a round, each of all instances
	gracefulInstances = 2
	gracefulPages     = 500 // requests per second
	gracefulDownloads = 2   // begun per second, two seconds each
	gracefulDrainWait = 2 * time.Second
	gracefulLimit     = 8 * time.Minute // all rounds together
)

// Graceful counts the requests that are lost in rolling restarts of a web service,
// with the lifecycle driver ("ours") and with the stock driver and shutdown_delay
// ("stock"), which is the best that stock Nomad can do.
//
// The two alternate, five rounds each of four rolling restarts, under 500 pages and
// 2 slow downloads a second. Both run nginx on raw_exec and differ in nothing but the
// driver; see package graceful. The client keeps addresses from Consul for a second,
// an instance goes on serving for two seconds after it has left Consul.
//
// Results go to out as "bench graceful.failed.ours <n> count" and the same for stock;
// lines that begin with "# " explain them. A lost request is a result, not an error.
func Graceful(ctx context.Context, c *cluster.Cluster, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, gracefulLimit)
	defer cancel()
	if err := cluster.Require(ctx, io.Discard, cluster.Nginx()); err != nil {
		return fmt.Errorf("graceful: %w", err)
	}
	content, err := graceful.FindContent(graceful.DefaultRoot)
	if err != nil {
		return fmt.Errorf("graceful: %w", err)
	}
	consulAddr, err := graceful.ConsulAddr(ctx, c.Nomad(), c.ConsulAddr())
	if err != nil {
		return fmt.Errorf("graceful: %w", err)
	}

	sides := []*gracefulSide{
		{name: "ours", variant: graceful.Ours},
		{name: "stock", variant: graceful.StockDelay},
	}
	for round := range gracefulRounds {
		for _, side := range sides {
			res, restarts, err := side.round(ctx, c, graceful.Options{
				Name:       "bench-graceful",
				Driver:     "raw_exec",
				Variant:    side.variant,
				Count:      gracefulInstances,
				DrainWait:  gracefulDrainWait,
				LongestGet: 5 * time.Second,
				ConsulAddr: consulAddr,
				Content:    content,
			})
			if err != nil {
				return fmt.Errorf("graceful: round %d with %s: %w", round+1, side.variant, err)
			}
			side.add(res, restarts)
			if _, err := fmt.Fprintf(out, "# graceful, round %d of %d, %s: %d rolling restarts, %d requests, %d failed\n",
				round+1, gracefulRounds, side.name, restarts, res.Requests, res.Failures); err != nil {
				return fmt.Errorf("graceful: write results: %w", err)
			}
		}
	}
	for _, side := range sides {
		if err := side.report(out); err != nil {
			return fmt.Errorf("graceful: write results: %w", err)
		}
	}
	return nil
}

// gracefulSide sums up what one variant did in all of its rounds.
type gracefulSide struct {
	name      string
	variant   graceful.Variant
	restarts  int
	all       load.Stats
	pages     load.Stats
	downloads load.Stats
	discovery int64
	took      time.Duration // restarting
}

// round deploys the service, restarts its instances under load and removes it.
func (s *gracefulSide) round(ctx context.Context, c *cluster.Cluster, opts graceful.Options) (res load.Result, restarts int, err error) {
	service, err := graceful.Deploy(ctx, c.Nomad(), c.Consul(), opts)
	defer func() {
		// Also when the time is over: the next round uses the same name.
		cleanCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if e := service.Stop(cleanCtx, false); e != nil {
			err = errors.Join(err, e)
		}
	}()
	if err != nil {
		return res, 0, err
	}

	g, err := load.Start(ctx, load.Config{
		Discover: load.Consul(c.Consul(), opts.Name),
		Streams:  opts.Content.Streams(opts.Driver, gracefulPages, gracefulDownloads),
	})
	if err != nil {
		return res, 0, err
	}
	defer func() { res = g.Stop() }()
	begin := time.Now()
	for restarts < gracefulRestarts {
		if _, err := service.Restart(ctx); err != nil {
			return res, restarts, err
		}
		restarts++
	}
	s.took += time.Since(begin)
	return res, restarts, nil
}

// add counts the results of a round.
func (s *gracefulSide) add(res load.Result, restarts int) {
	s.restarts += restarts
	s.all = s.all.Add(res.Stats)
	s.pages = s.pages.Add(res.Streams[graceful.Pages])
	s.downloads = s.downloads.Add(res.Streams[graceful.Downloads])
	s.discovery += res.DiscoveryFailures
}

// report writes the result of the variant.
func (s *gracefulSide) report(out io.Writer) error {
	lines := []string{
		fmt.Sprintf("# graceful, %s: %s, %d rolling restarts of %d instances in %s, %d requests at %d/s",
			s.name, s.variant, s.restarts, gracefulInstances, s.took.Round(time.Second), s.all.Requests, gracefulPages+gracefulDownloads),
		fmt.Sprintf("# graceful, %s: failed pages %d of %d, failed downloads of 2 s %d of %d; slowest page %s, worst p99 of a round %s",
			s.name, s.pages.Failures, s.pages.Requests, s.downloads.Failures, s.downloads.Requests,
			s.pages.Slowest.Round(time.Millisecond), s.pages.P99.Round(100*time.Microsecond)),
	}
	if why := s.all.Why(); why != "" {
		lines = append(lines, fmt.Sprintf("# graceful, %s: %s", s.name, why))
	}
	if s.discovery > 0 {
		lines = append(lines, fmt.Sprintf("# graceful, %s: Consul could not be asked %d times", s.name, s.discovery))
	}
	lines = append(lines, fmt.Sprintf("bench graceful.failed.%s %d count", s.name, s.all.Failures))
	for _, line := range lines {
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return nil
}
