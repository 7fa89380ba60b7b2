// Command candidate takes part in elections for the tests: it tells its story
// on standard output, as package journal describes, and takes commands on
// standard input, one per line:
//
//	join ELECTION            leave ELECTION
//	resign ELECTION          handover ELECTION CANDIDATE
//	status ELECTION
//
// It ends, and resigns, at the end of standard input. While it leads it makes
// fenced writes, each with a value of its own, to a key in Consul and to a
// register of the test.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/journal"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// commandPatience bounds one command.
const commandPatience = 10 * time.Second

// options are the command line.
type options struct {
	id, prefix, elections  string
	ttl, sessionTTL, grace time.Duration
	spans                  string
	register               string
	every                  time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.id, "id", "", "name of the candidate")
	flag.StringVar(&o.prefix, "prefix", "", "prefix of the keys in Consul")
	flag.StringVar(&o.elections, "elections", "", "elections to join, as name=mode,…")
	flag.DurationVar(&o.ttl, "ttl", 0, "TTL of the check")
	flag.DurationVar(&o.sessionTTL, "session-ttl", 0, "TTL of the session of mode strict")
	flag.DurationVar(&o.grace, "grace", 0, "how long before the end of the trust the leadership ends")
	flag.StringVar(&o.spans, "spans", "", "file for the spans of trust")
	flag.StringVar(&o.register, "register", "", "address of the register of the test, empty: none")
	flag.DurationVar(&o.every, "every", 0, "time between fenced writes, 0: none")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "candidate:", err)
		os.Exit(1)
	}
}

// seat is the place of the process in one election.
type seat struct {
	name  string
	mode  election.Mode
	index int

	mu        sync.Mutex
	candidate *election.Candidate // nil: not joined
}

// now is the candidate, or nil.
func (s *seat) now() *election.Candidate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.candidate
}

// program is the whole of it.
type program struct {
	opts    options
	journal *journal.Writer
	elector *election.Elector
	seats   map[string]*seat
	order   []*seat
	writer  *writer
}

func run(o options) (err error) {
	p := &program{opts: o, journal: journal.NewWriter(os.Stdout), seats: map[string]*seat{}}
	for i, item := range strings.Split(o.elections, ",") {
		name, mode, _ := strings.Cut(item, "=")
		s := &seat{name: name, mode: election.Mode(mode), index: i}
		p.seats[name] = s
		p.order = append(p.order, s)
	}
	p.elector, err = election.New(election.Config{
		Consul: api.DefaultConfig(), Prefix: o.prefix, ID: o.id, TTL: o.ttl, SessionTTL: o.sessionTTL,
		Logger: hclog.New(&hclog.LoggerOptions{Name: o.id, Output: os.Stderr, Level: hclog.Debug}),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	spans, err := journal.CreateSpans(o.spans)
	if err == nil {
		wg.Go(func() { p.sample(ctx, spans) })
		p.writer = newWriter(ctx, &wg, o, p.journal)
		for _, s := range p.order {
			if err = p.join(s); err != nil {
				break
			}
		}
	}
	if err == nil {
		p.journal.Write(journal.Event{Kind: journal.Ready})
		p.commands()
	}
	closing, done := context.WithTimeout(context.Background(), commandPatience)
	defer done()
	err = errors.Join(err, p.elector.Close(closing))
	cancel()
	wg.Wait()
	if spans != nil {
		err = errors.Join(err, spans.Close())
	}
	p.writer.close()
	p.journal.Write(journal.Event{Kind: journal.Closed})
	return errors.Join(err, p.journal.Err())
}

// join takes part in an election.
func (p *program) join(s *seat) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := p.elector.Join(s.name, election.Options{
		Mode:  s.mode,
		Grace: p.opts.grace,
		OnGain: func(l *election.Leadership) {
			p.journal.Write(journal.Event{Kind: journal.Gained, Election: s.name, Token: l.Token()})
			p.writer.begin(l)
		},
		OnLoss: func(l *election.Leadership, err error) {
			p.journal.Write(journal.Event{Kind: journal.Lost, Election: s.name, Token: l.Token(), Error: err.Error()})
		},
	})
	if err != nil {
		return fmt.Errorf("join %s: %w", s.name, err)
	}
	s.candidate = c
	return nil
}

// sample asks every millisecond whether this process trusts to lead.
func (p *program) sample(ctx context.Context, spans *journal.Spans) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		for _, s := range p.order {
			c := s.now()
			if c == nil {
				continue
			}
			l := c.Leadership()
			if l == nil {
				continue
			}
			// The term has begun before this moment and is trusted after it, so
			// it was trusted then.
			at := election.Now()
			if !l.Valid() {
				continue
			}
			if err := spans.Trusted(s.index, l.Token(), at); err != nil {
				panic(err) // the run is worth nothing without them
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// commands carries out what comes on standard input, several at a time, until
// its end.
func (p *program) commands() {
	var wg sync.WaitGroup
	defer wg.Wait()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		line := lines.Text()
		wg.Go(func() {
			e := journal.Event{Kind: journal.Did, Command: line}
			value, err := p.command(strings.Fields(line))
			if e.Value = value; err != nil {
				e.Error = err.Error()
			}
			p.journal.Write(e)
		})
	}
}

// command carries out one command. The value is what was asked for.
func (p *program) command(words []string) (value string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandPatience)
	defer cancel()
	if len(words) < 2 {
		return "", errors.New("no such command")
	}
	s := p.seats[words[1]]
	if s == nil {
		return "", fmt.Errorf("no election %q", words[1])
	}
	switch words[0] {
	case "join":
		return "", p.join(s)
	case "status":
		return p.status(s)
	}
	c := s.now()
	if c == nil {
		return "", errors.New("not joined")
	}
	switch {
	case words[0] == "leave":
		return "", c.Leave(ctx)
	case words[0] == "resign":
		return "", c.Resign(ctx)
	case words[0] == "handover" && len(words) == 3:
		return "", c.HandOver(ctx, words[2])
	default:
		return "", errors.New("no such command")
	}
}

// status is the status of an election as JSON.
func (p *program) status(s *seat) (string, error) {
	status, err := p.elector.Status(s.name)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(status)
	return string(b), err
}
