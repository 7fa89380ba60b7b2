// Command demo shows what the lifecycle driver is for: it starts a real Consul and a
// real Nomad with two clients, runs the same web service three times (with the stock
// driver, with the stock driver and shutdown_delay, with the lifecycle driver) and
// updates, restarts, drains and stops it under steady load. The table at the end
// counts the requests that were lost.
//
//	go run ./e2e/demo                  docker if an engine answers, else nginx on raw_exec
//	go run ./e2e/demo -driver raw_exec
//	go run ./e2e/demo -keep            leaves the cluster running until Ctrl-C
//
// It takes about three minutes; the first run on a machine builds Consul and Nomad
// before that, unless they are installed. Everything listens on loopback, and nothing
// is left behind, also after Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Pages per second unless told otherwise: what one instance bears with room to spare,
// since one has to bear it all while the other is replaced.
const (
	nginxRate   = 300
	busyboxRate = 40
)

// config is what the command line says.
type config struct {
	driver    string // "auto", "docker" or "raw_exec"
	keep      bool
	count     int
	rate      float64 // pages per second; 0: as the driver can bear
	downloads float64 // downloads begun per second
	drainWait time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second Ctrl-C ends the program at once; the cluster's watchdog cleans up then.
	context.AfterFunc(ctx, stop)

	code := 0
	switch err := demo(ctx, os.Args[1:], os.Stdout, os.Stderr); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "interrupted; nothing is left running")
		code = 130
	default:
		fmt.Fprintln(os.Stderr, "demo:", err)
		code = 1
	}
	stop()
	os.Exit(code)
}

// demo parses the arguments and runs.
func demo(ctx context.Context, args []string, out, errOut io.Writer) error {
	cfg, err := parse(args, errOut)
	if err != nil {
		return err
	}
	return run(ctx, cfg, out)
}

func parse(args []string, errOut io.Writer) (config, error) {
	var cfg config
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.StringVar(&cfg.driver, "driver", "auto", "`driver` that runs the service: docker, raw_exec, or auto (docker if an engine answers)")
	flags.BoolVar(&cfg.keep, "keep", false, "leave the cluster and the service running at the end, until Ctrl-C")
	flags.IntVar(&cfg.count, "count", 2, "`number` of instances")
	flags.Float64Var(&cfg.rate, "rate", 0, "page `requests` per second; 0: 300, with docker 40 because busybox httpd starts a process for each")
	flags.Float64Var(&cfg.downloads, "downloads", 2, "two-second `downloads` begun per second")
	flags.DurationVar(&cfg.drainWait, "drain-wait", 2*time.Second, "how long an instance goes on serving after it left Consul, whole seconds; clients here keep addresses for 1s")
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	switch {
	case flags.NArg() > 0:
		return cfg, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case cfg.driver != "auto" && cfg.driver != "docker" && cfg.driver != "raw_exec":
		return cfg, fmt.Errorf("-driver: %q is none of auto, docker, raw_exec", cfg.driver)
	case cfg.count < 2 || cfg.count > 10:
		return cfg, fmt.Errorf("-count: %d is not between 2 and 10; with one instance nobody answers while it is replaced", cfg.count)
	case !(cfg.rate >= 0) || cfg.rate > 5000: // also refuses NaN
		return cfg, fmt.Errorf("-rate: %v is not between 0 and 5000", cfg.rate)
	case !(cfg.downloads > 0) || cfg.downloads > 50:
		return cfg, fmt.Errorf("-downloads: %v is not between 0 and 50", cfg.downloads)
	case cfg.drainWait < time.Second || cfg.drainWait > 10*time.Second || cfg.drainWait%time.Second != 0:
		return cfg, fmt.Errorf("-drain-wait: %s is not a whole number of seconds from 1s to 10s", cfg.drainWait)
	}
	return cfg, nil
}
