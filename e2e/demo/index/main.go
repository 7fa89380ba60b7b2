// Command index shows the work queue: it starts a real Consul and a real Nomad, runs the
// job template pipeline, and lets it make an index of the words in the documentation of
// this machine, in three stages. Meanwhile it kills the broker that is in charge, and a
// worker. At the end it makes the same index in one go, without the queue, and compares
// them.
//
//	go run ./e2e/demo/index
//	go run ./e2e/demo/index -documents 3000 -words free,warranty
//	go run ./e2e/demo/index -keep       leaves the cluster running until Ctrl-C
//
// It takes about a minute; the first run on a machine builds Consul and Nomad before
// that, unless they are installed. Everything listens on loopback, and nothing is left
// behind, also after Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// config is what the command line says.
type config struct {
	dir       string // in which documents are
	documents int    // at most
	workers   int    // of each stage
	words     []string
	keep      bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second Ctrl-C ends the program at once; the cluster's watchdog cleans up then.
	context.AfterFunc(ctx, stop)

	code := 0
	cfg, err := parse(os.Args[1:], os.Stderr)
	if err == nil {
		err = run(ctx, cfg, os.Stdout)
	}
	switch {
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

func parse(args []string, errOut io.Writer) (config, error) {
	var cfg config
	flags := flag.NewFlagSet("index", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.StringVar(&cfg.dir, "dir", "/usr/share/doc", "`directory` with the documents")
	flags.IntVar(&cfg.documents, "documents", 1000, "largest `number` of documents; if there are more, they are picked evenly")
	flags.IntVar(&cfg.workers, "workers", 2, "`number` of workers of each stage")
	words := flags.String("words", "container,warranty,zebra", "`words` to look up at the end")
	flags.BoolVar(&cfg.keep, "keep", false, "leave the cluster and the queue running at the end, until Ctrl-C")
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	for w := range strings.SplitSeq(strings.ToLower(*words), ",") {
		if w = strings.TrimSpace(w); w != "" {
			cfg.words = append(cfg.words, w)
		}
	}
	switch {
	case flags.NArg() > 0:
		return cfg, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case cfg.documents < 20 || cfg.documents > 20_000:
		return cfg, fmt.Errorf("-documents: %d is not between 20 and 20000", cfg.documents)
	case cfg.workers < 2 || cfg.workers > 50:
		return cfg, fmt.Errorf("-workers: %d is not between 2 and 50; one is killed", cfg.workers)
	}
	return cfg, nil
}
