package election

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// States of a lock key that nobody holds, and of one that somebody does. The session
// that Consul keeps beside the key says who holds it; the state says how the last
// holder ended.
const (
	stateHeld     = "held"     // written by the lock; left behind by a holder that died
	stateReleased = "released" // the holder had stopped before it let go
	stateVacant   = "vacant"   // nothing is known of a holder
)

// record is the value of a lock key.
type record struct {
	State     string            `json:"state"`
	Candidate string            `json:"candidate,omitempty"` // who holds it, or wrote last
	Address   string            `json:"address,omitempty"`
	Meta      map[string]string `json:"meta,omitempty"`
	Mode      Mode              `json:"mode,omitempty"`
	// WindowMS is how long the holder may go on trusting itself after it lost the lock.
	WindowMS int64 `json:"window_ms"`
	// Attempt is different in each lock: Consul does not move the index of a key that
	// the same session locks again with the same value.
	Attempt string `json:"attempt,omitempty"`
	// Token of the term that was released.
	Token uint64 `json:"token,omitempty"`
	// To is who the released lock is meant for.
	To string `json:"to,omitempty"`
}

// window is within what a configuration can have: a value that somebody wrote by hand
// must not keep everybody waiting for ever.
func (r record) window() time.Duration {
	return time.Duration(min(max(0, r.WindowMS), MaxTTL.Milliseconds())) * time.Millisecond
}

func (r record) encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic("election: encode record: " + err.Error()) // strings and numbers only
	}
	return b
}

// registration is the value of a candidate's own key.
type registration struct {
	ID      string            `json:"id"`
	Address string            `json:"address,omitempty"`
	Meta    map[string]string `json:"meta,omitempty"`
	// Instance is the service ID of the process in the Consul catalog.
	Instance string `json:"instance,omitempty"`
	// Elections that the process is a candidate in, with its priority.
	Elections map[string]int `json:"elections"`
}

func (r registration) encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic("election: encode registration: " + err.Error())
	}
	return b
}

// lockKey is a lock key as it was seen.
type lockKey struct {
	modify  uint64 // index of the last write: the token of whoever holds it
	lock    uint64 // how often it was locked
	session string // of the holder; empty: free
	rec     record // zero if the value is not ours
}

// candidateKey is a candidate's key as it was seen.
type candidateKey struct {
	modify  uint64
	session string // empty: the candidate is dead
	reg     registration
}

// view is all that is under the prefix at one index.
type view struct {
	index uint64
	at    time.Duration // when it arrived
	// reset: the index went back, so Consul was restored from a snapshot or has
	// forgotten old deletions. Nothing that was known before counts.
	reset      bool
	leaders    map[string]lockKey
	candidates map[string]candidateKey
}

// keys are the names of the keys under a prefix.
type keys struct{ prefix string }

func (k keys) root() string              { return k.prefix + "/" }
func (k keys) leader(n string) string    { return k.prefix + "/leader/" + n }
func (k keys) candidate(i string) string { return k.prefix + "/candidate/" + i }

// parse makes a view of what a list returned. Values that have not changed since the
// last view are not read again, because there may be a thousand of them, unless what is
// known is to be forgotten.
func (k keys) parse(last view, pairs api.KVPairs, index uint64, at time.Duration, forget bool) view {
	v := view{
		index: index, at: at, reset: forget || index < last.index,
		leaders:    make(map[string]lockKey, len(last.leaders)),
		candidates: make(map[string]candidateKey, len(last.candidates)),
	}
	for _, p := range pairs {
		// A key goes back only if Consul does.
		if name, ok := strings.CutPrefix(p.Key, k.prefix+"/leader/"); ok && last.leaders[name].modify > p.ModifyIndex {
			v.reset = true
		}
		if id, ok := strings.CutPrefix(p.Key, k.prefix+"/candidate/"); ok && last.candidates[id].modify > p.ModifyIndex {
			v.reset = true
		}
	}
	for _, p := range pairs {
		if name, ok := strings.CutPrefix(p.Key, k.prefix+"/leader/"); ok && CheckName(name) == nil {
			old, known := last.leaders[name]
			if !known || v.reset || old.modify != p.ModifyIndex {
				old = lockKey{modify: p.ModifyIndex, lock: p.LockIndex, session: p.Session}
				if err := json.Unmarshal(p.Value, &old.rec); err != nil {
					// Somebody else's value: it says nothing, which is the careful case.
					old.rec = record{}
				}
			}
			v.leaders[name] = old
		}
		if id, ok := strings.CutPrefix(p.Key, k.prefix+"/candidate/"); ok && CheckID(id) == nil {
			old, known := last.candidates[id]
			if !known || v.reset || old.modify != p.ModifyIndex {
				old = candidateKey{modify: p.ModifyIndex, session: p.Session}
				if err := json.Unmarshal(p.Value, &old.reg); err != nil {
					old.reg = registration{}
				}
				old.reg.ID = id
			}
			v.candidates[id] = old
		}
	}
	return v
}
