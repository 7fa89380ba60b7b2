package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/demo/graceful"
	"github.com/nomad-patterns/nomad-patterns/e2e/demo/progress"
	"github.com/nomad-patterns/nomad-patterns/e2e/load"
)

// The phases of a variant, in their order.
const (
	phaseUpdate  = "update"
	phaseRestart = "restart"
	phaseDrain   = "drain"
	phaseStop    = "stop"
)

// serviceName is the name of the job and of the service in Consul.
const serviceName = "demo"

// outcome is what the load saw with one variant.
type outcome struct {
	variant graceful.Variant
	load.Result
	alloc string // an allocation whose events are worth a look
}

// run is the demo from the first step to the clean-up.
func run(ctx context.Context, cfg config, out io.Writer) (err error) {
	p := progress.New(out)
	p.Say("This demo runs a web service three times, with different drivers, and updates,")
	p.Say("restarts, drains and stops it under load. It counts the requests that are lost.")

	c, binaries, err := prepare(ctx, cfg, p)
	if err != nil {
		return err
	}
	defer func() {
		p.Say("stopping the cluster and removing all that belongs to it")
		if e := c.Stop(); e != nil {
			err = errors.Join(err, fmt.Errorf("stop the cluster: %w", e))
			return
		}
		p.Say("done, nothing is left running")
	}()
	driver, err := chooseDriver(ctx, cfg, c, p)
	if err != nil {
		return err
	}
	if cfg.rate == 0 {
		cfg.rate = nginxRate
		if driver == "docker" {
			cfg.rate = busyboxRate
		}
	}
	content, err := graceful.FindContent(graceful.DefaultRoot)
	if err != nil {
		return err
	}

	consulAddr, err := graceful.ConsulAddr(ctx, c.Nomad(), c.ConsulAddr())
	if err != nil {
		return err
	}
	opts := graceful.Options{
		Name:       serviceName,
		Driver:     driver,
		Count:      cfg.count,
		DrainWait:  cfg.drainWait,
		LongestGet: 5 * time.Second,
		ConsulAddr: consulAddr,
		Content:    content,
	}

	p.Say("Consul UI: %s", c.ConsulUI())
	p.Say("to look at it meanwhile, in another terminal:")
	p.Say("    export NOMAD_ADDR=%s CONSUL_HTTP_ADDR=%s", c.NomadAddr(), c.ConsulAddr())
	p.Say("    %s job status %s", binaries.Nomad, serviceName)

	var outcomes []outcome
	for i, variant := range variants() {
		p.Say("")
		p.Say("[%d/%d] %s (%s)", i+1, len(variants()), variant, driver)
		opts.Variant = variant
		o, err := show(ctx, cfg, c, opts, p)
		if err != nil {
			return fmt.Errorf("%s: %w", variant, err)
		}
		outcomes = append(outcomes, o)
	}

	fmt.Fprintln(out)
	if err := table(out, outcomes); err != nil {
		return err
	}
	ours := outcomes[len(outcomes)-1]
	fmt.Fprintln(out)
	if err := events(ctx, out, c, ours.alloc); err != nil {
		return err
	}
	fmt.Fprintln(out)
	where(out, c, binaries, ours.alloc)

	if cfg.keep {
		if err := linger(ctx, c, opts, p); err != nil {
			return err
		}
	}
	if ours.Failures > 0 {
		for _, sample := range ours.Samples {
			fmt.Fprintf(out, "%s %s %s %s\n", sample.Due.Format("15:04:05.000"), sample.Address, sample.Reason, sample.Detail)
		}
		return fmt.Errorf("the lifecycle driver lost %d requests (%s), and should lose none", ours.Failures, ours.Why())
	}
	return nil
}

// show runs one variant through all phases.
func show(ctx context.Context, cfg config, c *cluster.Cluster, opts graceful.Options, p *progress.Progress) (o outcome, err error) {
	o.variant = opts.Variant
	p.Say("deploying %d instances", opts.Count)
	s, err := graceful.Deploy(ctx, c.Nomad(), c.Consul(), opts)
	if err != nil {
		return o, err
	}

	g, err := load.Start(ctx, load.Config{
		Discover: load.Consul(c.Consul(), serviceName),
		Streams:  opts.Content.Streams(opts.Driver, cfg.rate, cfg.downloads),
	})
	if err != nil {
		return o, err
	}
	defer func() { o.Result = g.Stop() }()
	p.Say("load: %.0f pages a second of %s (%d bytes) and %.0f downloads of 2 s begun a second; addresses from Consul are kept for %s",
		cfg.rate, opts.Content.File, opts.Content.Bytes(), cfg.downloads, load.DefaultRefresh)

	node := c.Nodes()[0]
	steps := []struct {
		phase, says string
		do          func() error
	}{
		{phaseUpdate, "update: a new release replaces the instances one after the other", func() error { return s.Update(ctx) }},
		{phaseRestart, "restart: each instance, when the one before passes its check again", func() error { _, err := s.Restart(ctx); return err }},
		{phaseDrain, fmt.Sprintf("drain: node %s is emptied, its instances move to the other one", node.Name), func() error { return s.Drain(ctx, node.ID) }},
		{phaseStop, "stop: the job ends for good; instances have to answer as long as Consul knows them", func() error {
			g.ExpectGone()
			return s.Stop(ctx, false)
		}},
	}
	for _, step := range steps {
		if step.phase == phaseStop {
			if o.alloc, err = restarted(ctx, s); err != nil {
				return o, err
			}
		}
		begin := time.Now()
		g.Phase(step.phase)
		p.Say("%s", step.says)
		if err := step.do(); err != nil {
			return o, err
		}
		seen, _ := g.Snapshot().Phase(step.phase)
		p.Say("    took %.1fs, %d requests, %s", time.Since(begin).Seconds(), seen.Requests, lost(seen.Stats))
	}
	return o, nil
}

func lost(s load.Stats) string {
	if s.Failures == 0 {
		return "none lost"
	}
	return fmt.Sprintf("%d LOST: %s", s.Failures, s.Why())
}

// restarted returns a running allocation whose task was restarted, or any running one
// if there is none.
func restarted(ctx context.Context, s *graceful.Service) (string, error) {
	allocs, err := s.Running(ctx)
	if err != nil {
		return "", err
	}
	id := ""
	for _, a := range allocs {
		id = a.ID
		for _, task := range a.TaskStates {
			if task.Restarts > 0 {
				return id, nil
			}
		}
	}
	return id, nil
}

// linger runs the service with the lifecycle driver until the user has seen enough.
func linger(ctx context.Context, c *cluster.Cluster, opts graceful.Options, p *progress.Progress) error {
	p.Say("deploying the service once more, with the lifecycle driver, to look at")
	s, err := graceful.Deploy(ctx, c.Nomad(), c.Consul(), opts)
	if err != nil {
		return err
	}
	allocs, err := s.Running(ctx)
	if err != nil {
		return err
	}
	for _, a := range allocs {
		p.Say("    allocation %s on %s", a.ID, a.NodeName)
	}
	p.Say("the cluster runs until Ctrl-C")
	<-ctx.Done()
	return nil
}
