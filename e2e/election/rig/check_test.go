package rig

import (
	"testing"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/election/journal"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/shoenig/test/must"
)

func span(process, name string, mode election.Mode, token uint64, first, last time.Duration) Span {
	return Span{Process: process, Election: Election{name, mode}, Token: token, First: first, Last: last}
}

func TestOverlapsAndTokens(t *testing.T) {
	cases := map[string]struct {
		spans            []Span
		overlaps, tokens int
	}{
		"none": {spans: nil},
		"one after the other": {spans: []Span{
			span("b", "x", election.Strict, 2, 11, 20), span("a", "x", election.Strict, 1, 0, 10), span("b", "y", election.Strict, 3, 5, 9),
		}},
		"touching": {spans: []Span{
			span("a", "x", election.Balanced, 1, 0, 10), span("b", "x", election.Balanced, 2, 10, 20),
		}, overlaps: 1},
		"within a long one": {spans: []Span{
			span("a", "x", election.Strict, 1, 0, 100), span("b", "x", election.Strict, 2, 10, 20), span("c", "x", election.Strict, 3, 50, 60),
		}, overlaps: 2},
		"fenced may": {spans: []Span{
			span("a", "x", election.Fenced, 2, 0, 100), span("b", "x", election.Fenced, 1, 10, 20),
		}},
		"token falls": {spans: []Span{
			span("a", "x", election.Strict, 2, 0, 10), span("b", "x", election.Strict, 1, 11, 20),
		}, tokens: 1},
		"token twice": {spans: []Span{
			span("a", "x", election.Fenced, 2, 0, 10), span("b", "x", election.Fenced, 2, 11, 20),
		}, tokens: 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			must.Len(t, tc.overlaps, Overlaps(tc.spans))
			must.Len(t, tc.tokens, Tokens(tc.spans))
		})
	}
}

// history makes the records of writes.
func history(ws ...write) []Record {
	var all []Record
	for _, w := range ws {
		e := journal.Event{
			Kind: journal.Begun, At: w.begun, Election: "x", Token: w.token, Target: journal.TargetKV, Value: w.value,
		}
		all = append(all, Record{Process: w.process, Event: e})
		if w.end > 0 {
			e.Kind, e.At, e.Result = journal.Ended, w.end, w.result
			all = append(all, Record{Process: w.process, Event: e})
		}
	}
	return all
}

func reads(at time.Duration, value string) Observation {
	return Observation{Target: journal.TargetKV, Election: "x", Kind: Read, Value: value, Call: at, Return: at + 1}
}

func TestLinearizableAndStale(t *testing.T) {
	const ok, refused, unknown = journal.OK, journal.Refused, journal.Unknown
	cases := map[string]struct {
		writes    []write
		seen      []Observation
		bad, late int
	}{
		"empty": {},
		"good": {
			writes: []write{{process: "a", token: 1, value: "v", begun: 1, end: 2, result: ok}, {process: "b", token: 2, value: "w", begun: 3, end: 4, result: ok}},
			seen:   []Observation{reads(0, ""), reads(2, "v"), reads(5, "w")},
		},
		"stale write": {
			writes: []write{{process: "b", token: 2, value: "w", begun: 1, end: 2, result: ok}, {process: "a", token: 1, value: "v", begun: 3, end: 4, result: ok}},
			bad:    1, late: 1,
		},
		"at the same time": {
			writes: []write{{process: "b", token: 2, value: "w", begun: 1, end: 5, result: ok}, {process: "a", token: 1, value: "v", begun: 2, end: 4, result: ok}},
			seen:   []Observation{reads(6, "w")},
		},
		"refused is never seen": {
			writes: []write{{process: "a", token: 1, value: "v", begun: 1, end: 2, result: refused}},
			seen:   []Observation{reads(3, "v")},
			bad:    1,
		},
		"unknown and not seen": {
			writes: []write{{process: "b", token: 2, value: "w", begun: 1, end: 2, result: ok}, {process: "a", token: 1, value: "v", begun: 3, end: 4, result: unknown}},
			seen:   []Observation{reads(9, "w")},
		},
		"unknown and stale and seen": {
			writes: []write{{process: "b", token: 2, value: "w", begun: 1, end: 2, result: ok}, {process: "a", token: 1, value: "v", begun: 3}},
			seen:   []Observation{reads(9, "v")},
			bad:    1,
		},
		"killed, seen late": {
			writes: []write{{process: "a", token: 1, value: "v", begun: 1}},
			seen:   []Observation{reads(2, ""), reads(9, "v")},
		},
		"lost write": {
			writes: []write{{process: "a", token: 1, value: "v", begun: 1, end: 2, result: ok}},
			seen:   []Observation{reads(3, "")},
			bad:    1,
		},
		"lost by a restored snapshot": {
			writes: []write{{process: "a", token: 1, value: "v", begun: 3, end: 4, result: ok}},
			seen:   []Observation{{Kind: SnapshotTaken, Call: 1, Return: 2}, {Kind: SnapshotRestored, Call: 5, Return: 6}, reads(7, "")},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for i := range tc.writes {
				tc.writes[i].cell = cellName{journal.TargetKV, "x"}
			}
			records := history(tc.writes...)
			must.Len(t, tc.bad, Linearizable(records, tc.seen))
			must.Len(t, tc.late, Stale(records))
		})
	}
}
