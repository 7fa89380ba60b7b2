package election_test

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/rig"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/shoenig/test/must"
)

// Faults of all kinds at random. ELECTION_SOAK=n in the environment asks for n
// of them; "make bench-election" does some hundreds.
func TestSoak(t *testing.T) {
	injections, patience := 60, 70*time.Second
	if text := os.Getenv("ELECTION_SOAK"); text != "" {
		var err error
		injections, err = strconv.Atoi(text)
		must.NoError(t, err)
		patience = time.Duration(injections) * 3 * time.Second
	}
	consul := startConsul(t, cluster.ConsulConfig{})
	r, err := rig.Soak(t.Context(), rig.SoakConfig{
		Consul: consul, Binary: binary, Seed: uint64(time.Now().UnixNano()), Injections: injections, MaxTime: patience, Progress: testWriter{t},
	})
	must.NoError(t, err)
	t.Logf("faults %v and besides %v, terms %v, writes %v, %d stale ones refused by the register, shortest gap %s",
		r.Injections, r.Beside, r.Terms, r.Writes, r.Stale, r.Gap)
	for _, problem := range slices.Concat(r.Overlaps, r.StaleAccepted, r.Problems) {
		t.Error(problem)
	}
	must.Positive(t, r.Terms[election.Balanced])
	must.Positive(t, r.Writes["ok"])
	// A run that has hit nothing shows nothing.
	must.GreaterEq(t, injections/4, r.Total)
	must.Positive(t, r.Stale)
}

// testWriter shows progress in the log of the test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
