package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/demo/graceful"
	"github.com/nomad-patterns/nomad-patterns/e2e/load"
)

// table writes what was lost, one line per variant.
func table(out io.Writer, outcomes []outcome) error {
	fmt.Fprintln(out, "Requests lost, out of all pages and downloads:")
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\trequests\tupdate\trestart\tdrain\tstop\tall\tdownloads cut\tp99 page\tslowest page\t")
	for _, o := range outcomes {
		pages, downloads := o.Streams[graceful.Pages], o.Streams[graceful.Downloads]
		fmt.Fprintf(w, "%s\t%d\t", o.variant, o.Requests)
		for _, phase := range []string{phaseUpdate, phaseRestart, phaseDrain, phaseStop} {
			result, _ := o.Phase(phase)
			fmt.Fprintf(w, "%d\t", result.Failures)
		}
		fmt.Fprintf(w, "%d\t%d of %d\t%s\t%s\t\n", o.Failures,
			cut(downloads), downloads.Requests,
			pages.P99.Round(100*time.Microsecond), pages.Slowest.Round(time.Millisecond))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	fmt.Fprintln(out)
	for _, o := range outcomes {
		if why := o.Why(); why != "" {
			fmt.Fprintf(out, "%s: %s\n", o.variant, why)
		}
		if o.DiscoveryFailures > 0 {
			fmt.Fprintf(out, "%s: Consul could not be asked %d times: %s\n", o.variant, o.DiscoveryFailures, o.DiscoveryError)
		}
	}
	return nil
}

// cut counts the requests that were running when their instance went away.
func cut(s load.Stats) int64 {
	return s.Reasons[load.ReasonCut] + s.Reasons[load.ReasonReset] + s.Reasons[load.ReasonTimeout]
}

// events writes what Nomad knows of the life of an allocation's tasks.
func events(ctx context.Context, out io.Writer, c *cluster.Cluster, id string) error {
	if id == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	alloc, _, err := c.Nomad().Allocations().Info(id, (&nomadapi.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("read allocation %s: %w", id, err)
	}
	fmt.Fprintf(out, "The last events of allocation %s, with the lifecycle driver (Nomad keeps ten):\n\n", id)
	for name, state := range alloc.TaskStates {
		for _, e := range state.Events {
			at := time.Unix(0, e.Time).Format("15:04:05.000")
			fmt.Fprintf(out, "  %s  %-4s  %-18s  %s\n", at, name, e.Type, e.DisplayMessage)
		}
	}
	return nil
}

// where tells what there is to look at.
func where(out io.Writer, c *cluster.Cluster, binaries cluster.Binaries, alloc string) {
	fmt.Fprintf(out, `Where to look (make demo DEMOFLAGS=-keep leaves it running until Ctrl-C):
  Consul UI   %s
  Nomad       export NOMAD_ADDR=%s CONSUL_HTTP_ADDR=%s
              %s job status %s
              %s alloc status %s
  logs        %s
  the job     jobs/graceful-service.nomad.hcl
`, c.ConsulUI(), c.NomadAddr(), c.ConsulAddr(), binaries.Nomad, serviceName, binaries.Nomad, alloc[:min(8, len(alloc))], c.LogDir())
}
