package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/journal"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// SoakConfig says what a soak run does.
type SoakConfig struct {
	// Consul has at least three servers and a client agent.
	Consul *cluster.Consul
	// Binary is the candidate, see Build.
	Binary string
	// Candidates is their number. Default 5.
	Candidates int
	// Elections that all of them take part in. Default: one strict, two balanced,
	// one fenced.
	Elections []Election
	// Injections is the number of faults after which the run ends, and MaxTime
	// when it ends at the latest. Default: 50, a minute.
	Injections int
	MaxTime    time.Duration
	// Seed of the faults. Their effect depends on the timing of processes, so a
	// seed does not repeat a run.
	Seed uint64
	// Progress gets a line for each fault. Default: discarded.
	Progress io.Writer
}

func (c SoakConfig) withDefaults() SoakConfig {
	if c.Candidates == 0 {
		c.Candidates = 5
	}
	if c.Elections == nil {
		c.Elections = []Election{
			{"strict", election.Strict}, {"balanced-0", election.Balanced}, {"balanced-1", election.Balanced}, {"fenced", election.Fenced},
		}
	}
	if c.Injections == 0 {
		c.Injections = 50
	}
	if c.MaxTime == 0 {
		c.MaxTime = time.Minute
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	return c
}

// SoakReport is what a soak run found.
type SoakReport struct {
	Injections map[string]int // by kind of fault
	Total      int            // of Injections
	Beside     map[string]int // what was done besides: orderly changes, and faults of mode fenced only
	Terms      map[election.Mode]int
	Writes     map[string]int // fenced writes by result
	Stale      int            // writes that the register refused as stale
	// Overlaps and StaleAccepted have to be empty, and so have Problems: tokens
	// that do not rise, histories without an order, faults that did not work.
	Overlaps      []string
	StaleAccepted []string
	Problems      []string
	// Gap is the shortest time between two leaders where the mode promises one.
	Gap time.Duration
}

// soak is a run.
type soak struct {
	cfg      SoakConfig
	log      *Log
	register *Register
	list     []*candidateSlot

	// consulMu lets only one fault hit Consul itself, so that there is a leader
	// most of the time.
	consulMu sync.Mutex

	mu       sync.Mutex
	seen     []Observation
	counts   map[string]int
	beside   map[string]int
	total    int
	problems []string
}

// candidateSlot lets only one fault hit the process of a candidate.
type candidateSlot struct {
	*Candidate
	busy sync.Mutex
}

// Soak runs candidates, injects faults of all kinds at random, several at a
// time, and checks the histories. An error means that the run itself failed.
func Soak(ctx context.Context, cfg SoakConfig) (*SoakReport, error) {
	cfg = cfg.withDefaults()
	s := &soak{cfg: cfg, log: NewLog(), counts: map[string]int{}, beside: map[string]int{}}
	var err error
	if s.register, err = StartRegister(); err != nil {
		return nil, err
	}
	err = s.run(ctx)
	var spans []Span
	for _, c := range s.list {
		err = errors.Join(err, c.Close())
		list, serr := c.Spans()
		err = errors.Join(err, serr)
		spans = append(spans, list...)
	}
	err = errors.Join(err, s.register.Close())
	if err != nil {
		return nil, fmt.Errorf("soak: %w", err)
	}
	return s.report(spans), nil
}

// firstGains bounds the time until each election has a leader.
const firstGains = 2 * time.Minute

// run does everything up to the end of the candidates.
func (s *soak) run(ctx context.Context) error {
	prefix := fmt.Sprintf("soak-%x", s.cfg.Seed)
	agents := s.cfg.Consul.Clients()
	for i := range s.cfg.Candidates {
		c, err := NewCandidate(CandidateConfig{
			Consul: s.cfg.Consul, Log: s.log, Binary: s.cfg.Binary, ID: fmt.Sprintf("c%d", i), Prefix: prefix,
			Elections: s.cfg.Elections, Agent: s.cfg.Consul.ClientAddr(i % agents),
			Register: s.register.URL(), Every: 25 * time.Millisecond,
		})
		if err != nil {
			return err
		}
		s.list = append(s.list, &candidateSlot{Candidate: c})
		if err := c.Start(ctx); err != nil {
			return err
		}
	}
	first, cancelFirst := context.WithTimeout(ctx, firstGains)
	defer cancelFirst()
	for _, e := range s.cfg.Elections {
		if _, err := s.log.AwaitGain(first, 0, e.Name); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.MaxTime)
	defer cancel()
	var readers, injectors sync.WaitGroup
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	readers.Go(func() { s.readAll(reading, prefix) })
	for i := range 3 {
		injectors.Go(func() { s.inject(ctx, rand.New(rand.NewPCG(s.cfg.Seed, uint64(i))), prefix) })
	}
	injectors.Wait()
	stopReading()
	readers.Wait()
	return nil
}

// inject injects one fault after the other until there were enough.
func (s *soak) inject(ctx context.Context, rnd *rand.Rand, prefix string) {
	weights := 0
	for _, f := range faults {
		weights += f.weight
	}
	for ctx.Err() == nil {
		pick := rnd.IntN(weights)
		i := 0
		for ; pick >= faults[i].weight; i++ {
			pick -= faults[i].weight
		}
		f := faults[i]
		if !s.count() {
			return
		}
		begin := election.Now()
		err := f.inject(ctx, s, &scope{rnd: rnd, prefix: prefix})
		_, _ = fmt.Fprintf(s.cfg.Progress, "%s: %s (%s) %v\n", begin, f.name, election.Now()-begin, err)
		if err != nil && ctx.Err() == nil && !errors.Is(err, errMissed) && !errors.Is(err, errBeside) {
			s.problem("fault %s: %v", f.name, err)
		}
		switch {
		case errors.Is(err, errMissed):
			s.uncount()
		case errors.Is(err, errBeside):
			s.uncount()
			s.note(s.beside, f.name)
		default:
			s.note(s.counts, f.name)
		}
		sleep(ctx, time.Duration(rnd.IntN(400))*time.Millisecond)
	}
}

// count takes one of the injections that are left.
func (s *soak) count() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.cfg.Injections {
		return false
	}
	s.total++
	return true
}

// uncount gives it back.
func (s *soak) uncount() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
}

// note counts what was done, by its kind.
func (s *soak) note(counts map[string]int, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts[name]++
}

func (s *soak) problem(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

// observe notes what the test itself did to the registers.
func (s *soak) observe(o Observation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, o)
}

// readAll reads all registers again and again.
func (s *soak) readAll(ctx context.Context, prefix string) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, e := range s.cfg.Elections {
		wg.Go(func() {
			for ctx.Err() == nil {
				o := Observation{Target: journal.TargetRegister, Election: e.Name, Call: election.Now()}
				o.Value = s.register.Read(e.Name)
				o.Return = election.Now()
				s.observe(o)
				s.readKV(ctx, i, prefix, e.Name)
				sleep(ctx, 40*time.Millisecond)
			}
		})
	}
}

// readKV reads a register in Consul. A read that fails says nothing.
func (s *soak) readKV(ctx context.Context, agent int, prefix, name string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	o := Observation{Target: journal.TargetKV, Election: name, Call: election.Now()}
	client := s.cfg.Consul.Client(agent % s.cfg.Consul.Clients())
	kv, _, err := client.KV().Get(prefix+"-register/"+name, (&consulapi.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if err != nil {
		return
	}
	if kv != nil {
		o.Value = string(kv.Value)
	}
	o.Return = election.Now()
	s.observe(o)
}

// report checks everything.
func (s *soak) report(spans []Span) *SoakReport {
	records := s.log.All()
	r := &SoakReport{
		Injections: s.counts, Total: s.total, Beside: s.beside, Terms: map[election.Mode]int{}, Writes: WriteCounts(records),
		Overlaps: Overlaps(spans), StaleAccepted: Stale(records), Problems: s.problems,
	}
	_, r.Stale = s.register.Counts()
	r.Problems = append(r.Problems, Tokens(spans)...)
	r.Problems = append(r.Problems, Linearizable(records, s.seen)...)
	for _, span := range spans {
		r.Terms[span.Election.Mode]++
	}
	if gaps := Gaps(spans); len(gaps) > 0 {
		r.Gap = gaps[0]
	}
	return r
}

// sleep waits, less if ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
