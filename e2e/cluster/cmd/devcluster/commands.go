package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
)

const (
	exitFailure = 1
	exitUsage   = 2
	exitNotUp   = 3
)

// errNotUp means that no cluster of this checkout is up.
var errNotUp = errors.New("no cluster is up, start one with: make up")

// exitCode reports an error and says how to exit.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode() // the program has said why
	}
	fmt.Fprintln(os.Stderr, "devcluster:", err)
	if errors.Is(err, errNotUp) {
		return exitNotUp
	}
	return exitFailure
}

// tools finds or builds the agents.
func tools(ctx context.Context, _ []string) error {
	b, err := cluster.Tools(ctx, os.Stderr)
	if err != nil {
		return err
	}
	fmt.Println("nomad ", b.Nomad)
	fmt.Println("consul", b.Consul)
	return nil
}

// plugin builds the lifecycle plugin.
func plugin(ctx context.Context, _ []string) error {
	path, err := cluster.BuildPlugin(ctx, os.Stderr)
	if err != nil {
		return err
	}
	fmt.Println(path)
	return nil
}

// agentNames are the programs of agents/.
var agentNames = []string{"elector", "queue", "worker", "scatter"}

// agents builds the agents.
func agents(ctx context.Context, _ []string) error {
	for _, name := range agentNames {
		path, err := cluster.BuildAgent(ctx, os.Stderr, name)
		if err != nil {
			return err
		}
		fmt.Println(path)
	}
	return nil
}

// images builds what the job templates run on Docker by default: an image of each
// agent with nothing else in it, busybox, and curl with a shell.
func images(ctx context.Context, _ []string) error {
	if err := cluster.Require(ctx, os.Stderr, cluster.Busybox(), cluster.Curl()); err != nil {
		return err
	}
	if err := cluster.BuildCurlImage(ctx); err != nil {
		return err
	}
	fmt.Println(cluster.CurlImage)
	files := map[string]string{"busybox": "/bin/busybox"}
	for _, name := range agentNames {
		path, err := cluster.BuildAgent(ctx, os.Stderr, name)
		if err != nil {
			return err
		}
		files[name] = path
	}
	for name, path := range files {
		tag := "nomad-patterns/" + name + ":1"
		if err := cluster.BuildImage(ctx, tag, map[string]string{"/bin/" + name: path}, cluster.ImageOptions{}); err != nil {
			return err
		}
		fmt.Println(tag)
	}
	return nil
}

// deps installs packages.
func deps(ctx context.Context, _ []string) error {
	return cluster.Require(ctx, os.Stderr,
		cluster.Nginx(), cluster.Busybox(), cluster.Curl(), cluster.CNIPlugins(), cluster.Iptables())
}

// up starts the cluster of this checkout, or tells where it is.
func up(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("devcluster up", flag.ContinueOnError)
	clients := flags.Int("clients", 1, "number of Nomad clients")
	docker := flags.String("docker", string(cluster.DockerAuto), "auto, off or required")
	noPlugin := flags.Bool("no-plugin", false, "leave the lifecycle plugin out")
	extra := flags.String("config", "", "file with HCL that is added to every Nomad agent")
	if err := flags.Parse(args); err != nil {
		return err
	}
	cfg := cluster.Config{Clients: *clients, Docker: cluster.DockerMode(*docker), Progress: os.Stderr}
	if *extra != "" {
		b, err := os.ReadFile(*extra)
		if err != nil {
			return fmt.Errorf("read extra configuration: %w", err)
		}
		cfg.ExtraNomadConfig = string(b)
	}
	name, err := cluster.CheckoutName()
	if err != nil {
		return err
	}
	if info, err := cluster.Status(name); err == nil && info != nil && len(info.Agents) > 0 {
		return tellUp(*info, true)
	}
	if !*noPlugin {
		if cfg.PluginBinary, err = cluster.BuildPlugin(ctx, os.Stderr); err != nil {
			return fmt.Errorf("%w (to go without it: -no-plugin)", err)
		}
	}
	info, already, err := cluster.Up(ctx, name, cfg)
	if err != nil {
		return err
	}
	return tellUp(info, already)
}

// tellUp prints how to use the cluster.
func tellUp(info cluster.Info, already bool) error {
	if already {
		fmt.Println("The cluster is already up.")
	} else {
		fmt.Println("The cluster is up.")
	}
	b, err := cluster.Tools(context.Background(), nil)
	if err != nil {
		return err
	}
	fmt.Printf("\n%s\nRun a job:      %s job run jobs/graceful-service.nomad.hcl\nSee it:         %s status\nStop it all:    make down\n",
		info.Describe(), b.Nomad, b.Nomad)
	return nil
}

// down stops the cluster of this checkout.
func down(ctx context.Context, _ []string) error {
	name, err := cluster.CheckoutName()
	if err != nil {
		return err
	}
	found, err := cluster.Down(ctx, name, os.Stderr)
	if err != nil {
		return err
	}
	if found {
		fmt.Println("The cluster is down, and nothing is left of it.")
	} else {
		fmt.Println("No cluster was up.")
	}
	return nil
}

// status tells where the cluster is.
func status(_ context.Context, _ []string) error {
	name, err := cluster.CheckoutName()
	if err != nil {
		return err
	}
	info, err := cluster.Status(name)
	if err != nil {
		return err
	}
	if info == nil {
		return errNotUp
	}
	fmt.Print(info.Describe())
	return nil
}

// sweep takes away what crashed owners left.
func sweep(ctx context.Context, _ []string) error {
	swept, err := cluster.Sweep(ctx)
	for _, s := range swept {
		fmt.Println("swept", s)
	}
	return err
}

// lint runs the pinned golangci-lint at the root of the checkout.
func lint(ctx context.Context, args []string) error {
	root, err := cluster.Checkout()
	if err != nil {
		return err
	}
	path, err := cluster.Linter(ctx, os.Stderr)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{"run", "./..."}
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = root
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
