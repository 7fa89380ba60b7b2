// Command fleet is many leaves in one process, for benchmarks: each on a port of its own
// on loopback. It prints their addresses, one a line, and an empty line when all listen.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	n := flag.Int("n", 16, "`number` of leaves")
	size := flag.Int("bytes", 512, "size of an answer")
	slow := flag.Float64("slow", 0, "`share` of answers that are slow")
	after := flag.Duration("slow-time", time.Second, "how long a slow answer takes")
	hang := flag.Float64("hang", 0, "`share` of leaves that never answer")
	flag.Parse()
	if err := run(*n, *size, *slow, *after, *hang); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func run(n, size int, slow float64, after time.Duration, hang float64) error {
	// A JSON array of one text, so that each merge can be measured.
	body := []byte(`["` + strings.Repeat("x", max(size-4, 0)) + `"]`)
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slow > 0 && rand.Float64() < slow {
			wait(r, after)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // it fails only when nobody is left to be told
	})
	silent := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	out := bufio.NewWriter(os.Stdout)
	failed := make(chan error, n)
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		h := answer
		if float64(i) < hang*float64(n) {
			h = silent
		}
		s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
		go func() { failed <- s.Serve(l) }()
		if _, err := fmt.Fprintln(out, l.Addr()); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(out); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return <-failed // it is ended by a signal
}

func wait(r *http.Request, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	}
}
