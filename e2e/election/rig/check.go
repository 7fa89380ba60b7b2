package rig

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/election/journal"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// Span is a time in which a process trusted that it leads.
type Span struct {
	Process     string
	Election    Election
	Token       uint64
	First, Last time.Duration
}

func (s Span) String() string {
	return fmt.Sprintf("%s trusted %s (token %d) from %s to %s", s.Process, s.Election.Name, s.Token, s.First, s.Last)
}

// Overlaps finds the pairs of processes that trusted to lead the same election
// at the same time, in elections whose mode forbids it.
func Overlaps(spans []Span) []string {
	var found []string
	for _, list := range byElection(spans) {
		if list[0].Election.Mode == election.Fenced {
			continue
		}
		last := list[0]
		for _, s := range list[1:] {
			if s.First <= last.Last {
				found = append(found, fmt.Sprintf("%s while %s: %s at once", s, last, min(s.Last, last.Last)-s.First))
			}
			if s.Last > last.Last {
				last = s
			}
		}
	}
	return found
}

// Gaps are the times between the end of trust of a leader and the beginning of
// the next one's, where the mode promises one. They may be negative: then they
// overlap.
func Gaps(spans []Span) []time.Duration {
	var gaps []time.Duration
	for _, list := range byElection(spans) {
		if list[0].Election.Mode == election.Fenced {
			continue
		}
		for i := 1; i < len(list); i++ {
			gaps = append(gaps, list[i].First-list[i-1].Last)
		}
	}
	slices.Sort(gaps)
	return gaps
}

// Tokens finds terms whose token is not higher than that of the term before,
// and tokens that two terms have.
func Tokens(spans []Span) []string {
	var found []string
	for _, list := range byElection(spans) {
		seen := map[uint64]Span{}
		for i, s := range list {
			if old, ok := seen[s.Token]; ok {
				found = append(found, fmt.Sprintf("two terms with one token: %s, %s", old, s))
			}
			seen[s.Token] = s
			// Without a window a leader may have been given up before it knew that
			// it had become one.
			if i > 0 && s.Token <= list[i-1].Token && s.Election.Mode != election.Fenced {
				found = append(found, fmt.Sprintf("the token does not rise: %s, then %s", list[i-1], s))
			}
		}
	}
	return found
}

// byElection sorts the spans of each election by their beginning.
func byElection(spans []Span) map[Election][]Span {
	lists := map[Election][]Span{}
	for _, s := range spans {
		lists[s.Election] = append(lists[s.Election], s)
	}
	for _, list := range lists {
		slices.SortFunc(list, func(a, b Span) int { return cmp.Compare(a.First, b.First) })
	}
	return lists
}

// cellName names a register.
type cellName struct{ target, election string }

// write is a fenced write as its process saw it.
type write struct {
	cell       cellName
	process    string
	token      uint64
	value      string
	begun, end time.Duration // end is 0 if the process did not learn the outcome
	result     string        // of package journal
}

// writes pairs the beginnings and ends of all writes in a log.
func writes(records []Record) []write {
	var all []write
	open := map[string]int{} // value to index; values are unique
	for _, r := range records {
		switch r.Kind {
		case journal.Begun:
			open[r.Value] = len(all)
			all = append(all, write{
				cell: cellName{r.Target, r.Election}, process: r.Process, token: r.Token, value: r.Value,
				begun: r.At, result: journal.Unknown,
			})
		case journal.Ended:
			w := &all[open[r.Value]]
			w.result = r.Result
			if r.Result != journal.Unknown {
				w.end = r.At
			}
		}
	}
	return all
}

// Stale finds the writes that took effect though a write with a newer token had
// taken effect before they began.
func Stale(records []Record) []string {
	type mark struct {
		at    time.Duration
		token uint64
	}
	all := writes(records)
	done := map[cellName][]mark{} // by time, with rising tokens
	ends := slices.DeleteFunc(slices.Clone(all), func(w write) bool { return w.result != journal.OK })
	slices.SortFunc(ends, func(a, b write) int { return cmp.Compare(a.end, b.end) })
	for _, w := range ends {
		list := done[w.cell]
		if len(list) == 0 || list[len(list)-1].token < w.token {
			done[w.cell] = append(list, mark{w.end, w.token})
		}
	}
	var found []string
	for _, w := range ends {
		for _, m := range done[w.cell] {
			if m.at < w.begun && m.token > w.token {
				found = append(found, fmt.Sprintf("%s wrote %s to %s of %s at %s with token %d, after %d at %s",
					w.process, w.value, w.cell.target, w.cell.election, w.begun, w.token, m.token, m.at))
				break
			}
		}
	}
	return found
}

// WriteCounts counts the fenced writes by result.
func WriteCounts(records []Record) map[string]int {
	n := map[string]int{}
	for _, w := range writes(records) {
		n[w.result]++
	}
	return n
}
