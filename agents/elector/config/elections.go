package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-patterns/nomad-patterns/agents/elector/catalog"
	"github.com/nomad-patterns/nomad-patterns/agents/elector/hook"
	"github.com/nomad-patterns/nomad-patterns/agents/elector/server"
	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// elections checks all blocks and expands their names.
func (m *member) elections(p *agent.Problems) []server.Election {
	var all []server.Election
	places := map[string]string{} // by name
	for _, b := range m.Elections {
		from := "-election"
		if b.Body != nil {
			r := b.Body.MissingItemRange()
			from = fmt.Sprintf("%s:%d:%d", r.Filename, r.Start.Line, r.Start.Column)
		}
		e := b.election(p, from)
		names, err := Expand(b.Name, election.MaxElections-len(all))
		if err != nil {
			p.Addf(from, "election", "%v", err)
			continue
		}
		for _, name := range names {
			if err := election.CheckName(name); err != nil {
				checkField(p, from, err)
				break
			}
			if first, twice := places[name]; twice {
				p.Addf(from, "election", "%q is there already, from %s", name, first)
				break
			}
			places[name] = from
			e.Name = name
			all = append(all, e)
		}
	}
	return all
}

// election checks a block. The name is the caller's business.
func (b *electionBlock) election(p *agent.Problems, from string) server.Election {
	agent.Between(p, "priority", b.Priority, -election.MaxPriority, election.MaxPriority)
	e := server.Election{
		Mode: parseMode(p, b.Mode), Priority: b.Priority.V, OnDemand: b.OnDemand.V,
		OnGain: b.OnGain.check(p, from, "on_gain"), OnLoss: b.OnLoss.check(p, from, "on_loss"),
	}
	if s := b.Service; s != nil {
		if !s.Name.IsSet() {
			p.Addf(from, "service", "name is missing")
		} else {
			checkService(p, s.Name, s.Port)
		}
		s.LeaderTag.Default(catalog.DefaultLeaderTag)
		checkLabel(p, "leader_tag", s.LeaderTag)
		if s.LeaderTag.V == catalog.CandidateTag {
			p.Addf(s.LeaderTag.From, "leader_tag", "%q is the tag of those who do not lead", s.LeaderTag.V)
		}
		if slices.Contains(s.Tags.V, s.LeaderTag.V) {
			p.Addf(s.Tags.From, "tags", "%q is the leader_tag, which only the leader has", s.LeaderTag.V)
		}
		e.Service = &catalog.Service{
			Name: s.Name.V, Address: s.Address.V, Port: s.Port.V, Tags: s.Tags.V, LeaderTag: s.LeaderTag.V,
		}
	}
	return e
}

// check returns nil for a block that is not there.
func (c *command) check(p *agent.Problems, from, block string) *hook.Command {
	if c == nil {
		return nil
	}
	c.Timeout.Default(hook.DefaultTimeout)
	agent.Between(p, "timeout", c.Timeout, hook.MinTimeout, hook.MaxTimeout)
	if len(c.Command.V) == 0 || c.Command.V[0] == "" {
		if c.Command.IsSet() {
			from = c.Command.From
		}
		p.Addf(from, block, `command is missing; write for example command = ["/bin/program", "argument"]`)
	}
	return &hook.Command{Args: c.Command.V, Timeout: c.Timeout.V}
}

// Expand returns the names that a pattern stands for, in order: each [a-b] in it counts
// from a to b, with leading zeros if a and b have the same number of digits. A
// pattern without brackets is a name. It may stand for up to most names.
func Expand(pattern string, most int) ([]string, error) {
	head, rest, found := strings.Cut(pattern, "[")
	if !found {
		if strings.Contains(pattern, "]") {
			return nil, fmt.Errorf("%q has ] without [", pattern)
		}
		if most < 1 {
			return nil, tooMany()
		}
		return []string{pattern}, nil
	}
	span, tail, found := strings.Cut(rest, "]")
	first, last, width, ok := parseSpan(span)
	if !found || !ok || strings.Contains(head, "]") {
		return nil, fmt.Errorf("%q is not a name with ranges such as [000-499]", pattern)
	}
	if last-first >= most {
		return nil, tooMany()
	}
	count := last - first + 1
	tails, err := Expand(tail, most/count)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, count*len(tails))
	for n := first; n <= last; n++ {
		for _, t := range tails {
			names = append(names, fmt.Sprintf("%s%0*d%s", head, width, n, t))
		}
	}
	return names, nil
}

func tooMany() error {
	return fmt.Errorf("there are more than %d elections in all; run several electors", election.MaxElections)
}

// parseSpan reads "a-b". Width is the number of digits to fill with zeros.
func parseSpan(span string) (first, last, width int, ok bool) {
	a, b, found := strings.Cut(span, "-")
	if !found {
		return 0, 0, 0, false
	}
	const bits = 31 // so that a count of them fits everywhere
	from, errA := strconv.ParseUint(a, 10, bits)
	to, errB := strconv.ParseUint(b, 10, bits)
	if errA != nil || errB != nil || from > to {
		return 0, 0, 0, false
	}
	if len(a) == len(b) {
		width = len(a)
	} else if padded(a) || padded(b) {
		return 0, 0, 0, false // what would [01-100] mean?
	}
	return int(from), int(to), width, true
}

func padded(digits string) bool { return len(digits) > 1 && digits[0] == '0' }
