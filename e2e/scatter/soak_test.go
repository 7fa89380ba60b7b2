package scatter_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
)

const (
	soakShards   = 8
	soakReplicas = 3
	soakClients  = 6
	soakFaults   = 60
	soakTimeout  = 500 * time.Millisecond
	// soakSlack is how much later than its deadline an answer may come. The machine is
	// busy with all that is being killed and started.
	soakSlack = 5 * time.Second
)

// TestSoak lets leaves be killed, frozen, broken and replaced while clients ask. No request
// hangs, and no answer says that it has more than it has.
func TestSoak(t *testing.T) {
	c := clustertest.StartConsul(t, cluster.ConsulConfig{})
	s := &soak{t: t, consul: c.Server(0), leaves: map[int][]*leaf{}}
	for shard := range soakShards {
		for range soakReplicas {
			s.add(shard)
		}
	}
	r := startRoot(t, s.consul, "root", "svc", gather.Config{Timeout: soakTimeout})
	r.shards(soakShards, soakShards*soakReplicas)

	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range soakClients {
		clients.Go(func() { s.ask(r, stop, []float64{1, 0.5}[i%2]) })
	}
	for range soakFaults {
		s.fault()
		select {
		case <-time.After(50 * time.Millisecond): // between two faults
		case <-r.ctx.Done():
			t.Fatal("the faults have taken too long")
		}
	}
	s.heal()
	close(stop)
	clients.Wait()
	for _, p := range s.problems {
		t.Error(p)
	}
	t.Logf("answers: %v", s.answers)
	must.Positive(t, s.answers["200 whole"])
	// When all are well all is there again.
	r.shards(soakShards, soakShards*soakReplicas)
	r.until("all answer", func() bool {
		a := r.get(0)
		return a.status == http.StatusOK && a.ok == soakShards
	})
	t.Logf("%+v", r.Status()[0].Counters)
	r.until("nothing is in flight", func() bool {
		for _, sh := range r.Status()[0].Shards {
			for _, l := range sh.Leaves {
				if l.InFlight != 0 {
					return false
				}
			}
		}
		return true
	})
}

type soak struct {
	t      *testing.T
	consul *api.Client
	leaves map[int][]*leaf // by shard
	next   int

	mu       sync.Mutex
	answers  map[string]int
	problems []string
}

func (s *soak) add(shard int) {
	s.next++
	s.leaves[shard] = append(s.leaves[shard], startLeaf(s.t, s.consul, "svc", fmt.Sprint(shard), fmt.Sprintf("leaf%d", s.next)))
}

// fault breaks a leaf, or replaces one.
func (s *soak) fault() {
	shard := rand.IntN(soakShards)
	list := s.leaves[shard]
	i := rand.IntN(len(list))
	l := list[i]
	switch rand.IntN(5) {
	case 0: // it dies, and Consul hears of it later than clients do
		l.kill()
		l.leave()
		s.leaves[shard] = slices.Delete(list, i, i+1)
		s.add(shard)
	case 1: // a rolling update: the new one is there before the old one goes
		s.add(shard)
		l.leave()
		s.leaves[shard] = slices.DeleteFunc(s.leaves[shard], func(x *leaf) bool { return x == l })
		time.AfterFunc(2*soakTimeout, l.kill)
	case 2:
		l.hang.Store(true)
	case 3:
		l.fail.Store(true)
	default:
		l.hang.Store(false)
		l.fail.Store(false)
	}
}

func (s *soak) heal() {
	for _, list := range s.leaves {
		for _, l := range list {
			l.hang.Store(false)
			l.fail.Store(false)
		}
	}
}

// ask asks until it is stopped, and checks each answer.
func (s *soak) ask(r *root, stop <-chan struct{}, coverage float64) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(r.ctx, soakTimeout+soakSlack)
		a, err := ask(ctx, r.url, coverage)
		cancel()
		s.judge(a, err, coverage)
	}
}

func (s *soak) judge(a answer, err error, coverage float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bad := func(format string, args ...any) {
		if len(s.problems) < 10 {
			s.problems = append(s.problems, fmt.Sprintf(format, args...)+fmt.Sprintf(": %+v", a))
		}
	}
	if s.answers == nil {
		s.answers = map[string]int{}
	}
	kind := fmt.Sprint(a.status)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		bad("no answer within %s", soakTimeout+soakSlack)
		return
	case err != nil:
		bad("%v", err)
		return
	case a.status == http.StatusOK:
		if a.ok == a.total {
			kind += " whole"
		} else {
			kind += " partial"
		}
		shards := map[string]bool{}
		for _, name := range a.leaves {
			shard, _, _ := strings.Cut(name, "/")
			if shards[shard] {
				bad("a shard is there twice")
			}
			shards[shard] = true
		}
		if len(a.leaves) != a.ok || a.total != soakShards {
			bad("the coverage is wrong")
		}
		if float64(a.ok) < coverage*float64(a.total) {
			bad("too little was not an error")
		}
	case a.status != http.StatusBadGateway && a.status != http.StatusGatewayTimeout:
		bad("another status than is documented")
	case float64(a.ok) >= coverage*float64(a.total):
		bad("enough was an error")
	}
	s.answers[kind]++
}
