package server

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
)

// fleet is n leaves on ports of their own in this process.
func fleet(b *testing.B, n int) []string {
	b.Helper()
	body := bytes.Repeat([]byte("x"), 512)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })}
	var all []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, l.Addr().String())
		go func() { _ = s.Serve(l) }()
	}
	b.Cleanup(func() { _ = s.Close() })
	return all
}

// naive is a fan-out as one writes it in an hour.
func naive(leaves []string, client *http.Client) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		parts := make([][]byte, len(leaves))
		g, ctx := errgroup.WithContext(r.Context())
		for i, l := range leaves {
			g.Go(func() error {
				req, err := http.NewRequestWithContext(ctx, r.Method, "http://"+l+r.URL.RequestURI(), nil)
				if err != nil {
					return err
				}
				resp, err := client.Do(req)
				if err != nil {
					return err
				}
				defer func() { _ = resp.Body.Close() }()
				parts[i], err = io.ReadAll(resp.Body)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		for _, p := range parts {
			_, _ = w.Write(p)
		}
	}
}

func BenchmarkFanOut(b *testing.B) {
	for _, n := range []int{16, 64, 256, 1000} {
		leaves := fleet(b, n)
		b.Run(fmt.Sprintf("naive/%d", n), func(b *testing.B) {
			tr := &http.Transport{MaxIdleConnsPerHost: 64}
			defer tr.CloseIdleConnections()
			h := naive(leaves, &http.Client{Transport: tr})
			run(b, h)
		})
		b.Run(fmt.Sprintf("root/%d", n), func(b *testing.B) {
			group, err := gather.New(gather.Config{})
			if err != nil {
				b.Fatal(err)
			}
			defer group.Close()
			var all []gather.Leaf
			for i, l := range leaves {
				all = append(all, gather.Leaf{ID: fmt.Sprint(i), Address: l, Shard: fmt.Sprint(i)})
			}
			group.Update(all)
			run(b, &route{RouteConfig: RouteConfig{Group: group, Merger: lines{}, MaxAnswer: DefaultMaxAnswer, MaxDepth: 8}, self: "me", metrics: newMetrics()})
		})
	}
}

func run(b *testing.B, h http.Handler) {
	b.ReportAllocs()
	for b.Loop() {
		req := httptest.NewRequest(http.MethodGet, "/x", nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != 200 {
			b.Fatal(w.Code, w.Body)
		}
	}
}
