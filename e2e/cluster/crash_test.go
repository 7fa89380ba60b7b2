package cluster_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/shoenig/test/must"
)

// The owner is this test program, run a second time. It has no chance to clean
// up: its watchdog does.
func TestCluster_OwnerKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), ownerEnv+"="+dir)
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, cmd.Start())
	id, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		must.NoError(t, cmd.Wait(), must.Sprint(errors.String()))
	}
	id = strings.TrimSpace(id)

	left, err := cluster.LeftoversOf(t.Context(), id)
	must.NoError(t, err)
	must.SliceNotEmpty(t, left, must.Sprint("the cluster should run"))
	t.Logf("before the kill:\n%s", strings.Join(left, "\n"))

	must.NoError(t, cmd.Process.Kill())
	must.Error(t, cmd.Wait())

	// There is no event of another session's end to wait for.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		known, err := cluster.Known(id)
		must.NoError(t, err)
		if !known {
			break
		}
		select {
		case <-ctx.Done():
			left, err := cluster.LeftoversOf(t.Context(), id)
			t.Fatalf("the watchdog has not finished: %v, %v", left, err)
		case <-tick.C:
		}
	}
	must.DirNotExists(t, dir)
	for _, path := range procPathsOf(t, dir, id) {
		t.Errorf("still running: %s", path)
	}
}

// procPathsOf looks for the cluster in /proc without the package's own eyes:
// by the mark and by the directory in any environment and command line.
func procPathsOf(t *testing.T, dir, id string) []string {
	t.Helper()
	var found []string
	for _, file := range []string{"environ", "cmdline"} {
		paths, err := filepath.Glob("/proc/[0-9]*/" + file)
		must.NoError(t, err)
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				continue // gone, or not ours to read
			}
			if s := string(b); strings.Contains(s, dir) || strings.Contains(s, "NOMAD_PATTERNS_CLUSTER="+id) {
				found = append(found, path)
			}
		}
	}
	return found
}
