package main

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/demo/graceful"
	"github.com/nomad-patterns/nomad-patterns/e2e/demo/progress"
)

// prepare makes sure of everything that the cluster and the service need, and starts
// the cluster.
func prepare(ctx context.Context, cfg config, p *progress.Progress) (*cluster.Cluster, cluster.Binaries, error) {
	binaries, err := cluster.Tools(ctx, p)
	if err != nil {
		return nil, binaries, fmt.Errorf("find or build consul and nomad: %w", err)
	}
	plugin, err := cluster.BuildPlugin(ctx, p)
	if err != nil {
		return nil, binaries, err
	}
	docker := cluster.DockerAuto
	switch cfg.driver {
	case "docker":
		docker = cluster.DockerRequired
	case "raw_exec":
		docker = cluster.DockerOff
	}
	p.Say("starting Consul, a Nomad server and two Nomad clients")
	c, err := cluster.Start(ctx, cluster.Config{
		Clients:      2,
		Docker:       docker,
		PluginBinary: plugin,
		Binaries:     binaries,
		Progress:     p,
	})
	if err != nil {
		return nil, binaries, fmt.Errorf("start the cluster: %w", err)
	}
	return c, binaries, nil
}

// chooseDriver says which driver runs the service, and provides what it runs: the
// image, or nginx of this machine.
func chooseDriver(ctx context.Context, cfg config, c *cluster.Cluster, p *progress.Progress) (string, error) {
	driver := cfg.driver
	if driver == "auto" {
		driver = "raw_exec"
		if c.HasDriver("docker") && c.HasDriver("lifecycle-docker") {
			driver = "docker"
		}
	}
	for _, name := range []string{driver, "lifecycle-" + driver} {
		if !c.HasDriver(name) {
			return "", fmt.Errorf("driver %s does not work here; there are %v", name, c.Drivers())
		}
	}
	if driver == "raw_exec" {
		return driver, cluster.Require(ctx, p, cluster.Nginx())
	}
	if err := cluster.Require(ctx, p, cluster.Busybox()); err != nil {
		return "", err
	}
	if err := static(cluster.Busybox().Probe); err != nil {
		return "", err
	}
	p.Say("building image %s from %s", graceful.Image, cluster.Busybox().Probe)
	return driver, cluster.BuildImage(ctx, graceful.Image, map[string]string{"/bin/busybox": cluster.Busybox().Probe}, cluster.ImageOptions{})
}

// static checks that a program runs in an image in which there is nothing else.
func static(path string) (err error) {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP {
			return fmt.Errorf("%s needs shared libraries, an image needs the one of package busybox-static; on Debian run: sudo apt-get install busybox-static", path)
		}
	}
	return nil
}

// variants are shown in this order, the best last.
func variants() []graceful.Variant {
	return []graceful.Variant{graceful.Stock, graceful.StockDelay, graceful.Ours}
}
