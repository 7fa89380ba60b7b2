package election

import (
	"encoding/json"
	"time"
)

// Leader is what a leader says of itself.
type Leader struct {
	ID      string            `json:"id"`
	Address string            `json:"address,omitempty"`
	Meta    map[string]string `json:"meta,omitempty"`
}

// CandidateInfo is a live candidate of an election.
type CandidateInfo struct {
	ID      string            `json:"id"`
	Address string            `json:"address,omitempty"`
	Meta    map[string]string `json:"meta,omitempty"`
	// Rank is the order in which candidates take a free leadership, from 0.
	Rank int `json:"rank"`
}

// Status is what this process knows of an election, and how well.
type Status struct {
	Election string
	Mode     Mode // the leader's, or this candidate's where there is no leader
	// Self says that this process leads and may trust so for Trusted. It is false
	// whenever that is not sure, whatever Consul says.
	Self   bool
	Joined bool // this process is a candidate
	// Leader holds the lock as far as was last seen. Nil: nobody does.
	Leader *Leader
	// Token is the fencing token of Leader: each later term of this election has a
	// higher one. It is the Raft index of the write that took the lock.
	Token uint64
	// Term counts the terms for people, from 1. It begins again if the key is
	// deleted; never fence with it.
	Term uint64
	// Trusted is what is left of the trust window. Zero unless Self.
	Trusted time.Duration
	// Observed is the age of this answer: the time since the start of the last
	// consistent read that agrees with it. Negative: there was none yet.
	Observed time.Duration
	// Candidates are the live ones, by rank.
	Candidates []CandidateInfo
	// Error says why this process cannot take part at the moment. Empty: it can.
	Error string
}

// wireStatus is the JSON form of a Status: durations are whole milliseconds.
type wireStatus struct {
	Election   string          `json:"election"`
	Mode       Mode            `json:"mode"`
	Self       bool            `json:"self"`
	Joined     bool            `json:"joined"`
	Leader     *Leader         `json:"leader"`
	Token      uint64          `json:"token"`
	Term       uint64          `json:"term"`
	TrustedMS  int64           `json:"trusted_ms"`
	ObservedMS int64           `json:"observed_ms"`
	Candidates []CandidateInfo `json:"candidates"`
	Error      string          `json:"error,omitempty"`
}

// MarshalJSON gives the form of the elector's HTTP API: durations in milliseconds,
// rounded so that they promise less and not more.
func (s Status) MarshalJSON() ([]byte, error) {
	w := wireStatus{
		Election: s.Election, Mode: s.Mode, Self: s.Self, Joined: s.Joined, Leader: s.Leader,
		Token: s.Token, Term: s.Term, TrustedMS: s.Trusted.Milliseconds(), ObservedMS: -1,
		Candidates: s.Candidates, Error: s.Error,
	}
	if s.Observed >= 0 {
		w.ObservedMS = (s.Observed + time.Millisecond - 1).Milliseconds()
	}
	if w.Candidates == nil {
		w.Candidates = []CandidateInfo{}
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Status) UnmarshalJSON(b []byte) error {
	var w wireStatus
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*s = Status{
		Election: w.Election, Mode: w.Mode, Self: w.Self, Joined: w.Joined, Leader: w.Leader,
		Token: w.Token, Term: w.Term, Trusted: time.Duration(w.TrustedMS) * time.Millisecond,
		Observed: time.Duration(w.ObservedMS) * time.Millisecond, Candidates: w.Candidates, Error: w.Error,
	}
	return nil
}

// Health says whether this process can take part in elections.
type Health struct {
	Ready bool
	// Reason says why not. Empty when ready.
	Reason string
}

// Stats counts since New.
type Stats struct {
	Joined  int // elections that this process is a candidate in
	Leading int // elections that it leads and trusts to lead

	Gains  uint64            // terms begun
	Losses map[string]uint64 // terms ended, by reason: "resigned", "handed over", "left", "lease expired", "trust expired", "lock lost", "closed"

	ConsulRequests uint64 // sent, heartbeats and watches included
	ConsulErrors   uint64 // of these failed: no answer, or one that could not be used
	Sessions       uint64 // sessions made; more than one a mode means that some were lost

	// Observed is the time since the start of the last consistent read that agreed
	// with what this process knows. Negative: there was none.
	Observed time.Duration
}
