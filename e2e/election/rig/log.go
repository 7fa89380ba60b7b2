package rig

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/nomad-patterns/nomad-patterns/e2e/election/journal"
)

// Record is an event of one of the processes.
type Record struct {
	// Process is the candidate's ID with its process ID: a candidate that is
	// killed and started again is another process.
	Process   string
	Candidate string
	journal.Event
}

// Log holds the events of all processes in the order in which they came. An
// event's own time is exact, the order of events of different processes is not.
type Log struct {
	mu      sync.Mutex
	records []Record
	changed chan struct{} // closed at each new record, and then replaced
}

// NewLog makes an empty log.
func NewLog() *Log { return &Log{changed: make(chan struct{})} }

// Add appends a record.
func (l *Log) Add(r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r)
	close(l.changed)
	l.changed = make(chan struct{})
}

// Len is the number of records now, for Await.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.records)
}

// All returns all records.
func (l *Log) All() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records)
}

// Await returns the first record at or after index from that matches, and waits
// for it. what completes "wait for" in the error.
func (l *Log) Await(ctx context.Context, from int, what string, match func(Record) bool) (Record, error) {
	for {
		l.mu.Lock()
		fresh, changed := l.records[from:], l.changed
		l.mu.Unlock()
		for _, r := range fresh {
			if match(r) {
				return r, nil
			}
		}
		from += len(fresh)
		select {
		case <-changed:
		case <-ctx.Done():
			return Record{}, fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
}

// AwaitGain waits until a candidate that is not one of the others reports that
// it leads the election. An empty election is any.
func (l *Log) AwaitGain(ctx context.Context, from int, election string, but ...string) (Record, error) {
	return l.Await(ctx, from, "a leader of "+election, func(r Record) bool {
		return r.Kind == journal.Gained && (election == "" || r.Election == election) && !slices.Contains(but, r.Candidate)
	})
}

// AwaitLoss waits until a candidate reports that it lost the election.
func (l *Log) AwaitLoss(ctx context.Context, from int, election, candidate string) (Record, error) {
	return l.Await(ctx, from, "the loss of "+election+" by "+candidate, func(r Record) bool {
		return r.Kind == journal.Lost && r.Election == election && r.Candidate == candidate
	})
}

// Leader is the record of the latest gain of an election whose loss, or whose
// process's end, is not in the log. ok: there is one.
func (l *Log) Leader(election string) (leader Record, ok bool) {
	open := map[string]Record{}
	for _, r := range l.All() {
		switch {
		case r.Kind == journal.Gained && r.Election == election:
			open[r.Process] = r
		case r.Kind == journal.Lost && r.Election == election, r.Kind == Ended:
			delete(open, r.Process)
		}
	}
	for _, r := range open {
		if !ok || r.Token > leader.Token {
			leader, ok = r, true
		}
	}
	return leader, ok
}

// Ended is the kind of the record that says that a process is gone.
const Ended journal.Kind = "process ended"
