// Command naive is a fan-out as a good engineer writes it in an hour, without any feature:
// what the agent scatter is measured against. It reads the leaves' addresses from the
// standard input, one a line up to an empty one, asks all of them for each request and
// answers with all that they say. It prints where it listens.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "naive:", err)
		os.Exit(1)
	}
}

func run() error {
	var leaves []string
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() && lines.Text() != "" {
		leaves = append(leaves, lines.Text())
	}
	if err := lines.Err(); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Println(l.Addr()); err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
		defer cancel()
		parts, err := ask(ctx, client, leaves, r.URL.RequestURI())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		for _, p := range parts {
			_, _ = w.Write(p) // it fails only when nobody is left to be told
		}
	})}
	return s.Serve(l)
}

// ask asks all leaves at the same time.
func ask(ctx context.Context, client *http.Client, leaves []string, uri string) ([][]byte, error) {
	parts := make([][]byte, len(leaves))
	g, ctx := errgroup.WithContext(ctx)
	for i, leaf := range leaves {
		g.Go(func() error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+leaf+uri, nil)
			if err != nil {
				return err
			}
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }() // it is read only
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("leaf %s: %s", leaf, resp.Status)
			}
			parts[i], err = io.ReadAll(resp.Body)
			return err
		})
	}
	return parts, g.Wait()
}
