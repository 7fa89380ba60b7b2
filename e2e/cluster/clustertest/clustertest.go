// Package clustertest starts a cluster for a test and stops it with the test.
package clustertest

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
)

// tailBytes is how much of each log a failed test prints.
const tailBytes = 6 << 10

// Start starts a cluster and registers its end with the test. If the test
// fails, the tail of every log is printed and the logs are kept. The test
// fails too if the cluster leaves something behind.
func Start(t testing.TB, cfg cluster.Config) *cluster.Cluster {
	t.Helper()
	if cfg.Progress == nil {
		cfg.Progress = testWriter{t}
	}
	c, err := cluster.Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("start cluster: %v", err)
	}
	t.Cleanup(func() { end(t, c) })
	return c
}

// StartConsul is Start for a Consul without Nomad.
func StartConsul(t testing.TB, cfg cluster.ConsulConfig) *cluster.Consul {
	t.Helper()
	if cfg.Progress == nil {
		cfg.Progress = testWriter{t}
	}
	c, err := cluster.StartConsul(t.Context(), cfg)
	if err != nil {
		t.Fatalf("start consul: %v", err)
	}
	t.Cleanup(func() { end(t, c) })
	return c
}

// stopper is any kind of cluster.
type stopper interface {
	Keep()
	Stop() error
	Leftovers(ctx context.Context) ([]string, error)
	LogDir() string
}

// end stops the cluster and reports.
func end(t testing.TB, c stopper) {
	if t.Failed() {
		c.Keep()
	}
	if err := c.Stop(); err != nil {
		t.Errorf("stop cluster: %v", err)
	}
	left, err := c.Leftovers(context.Background())
	if err != nil {
		t.Errorf("look for leftovers: %v", err)
	}
	for _, l := range left {
		t.Errorf("left behind: %s", l)
	}
	if !t.Failed() {
		return
	}
	logs, err := filepath.Glob(filepath.Join(c.LogDir(), "*.log"))
	if err != nil {
		t.Errorf("list logs: %v", err)
	}
	sort.Strings(logs)
	for _, path := range logs {
		text, err := tail(path)
		if err != nil {
			t.Logf("tail of %s: %v", path, err)
			continue
		}
		t.Logf("tail of %s:\n%s", path, text)
	}
	if len(logs) > 0 {
		t.Logf("logs are kept in %s", c.LogDir())
	}
}

// tail is the end of a file.
func tail(path string) (text string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.Size() > tailBytes {
		if _, err := f.Seek(-tailBytes, io.SeekEnd); err != nil {
			return "", err
		}
	}
	b, err := io.ReadAll(f)
	return string(b), err
}

// testWriter shows progress in the log of the test.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
