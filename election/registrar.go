package election

import (
	"fmt"
	"slices"
	"time"
)

// Times of the candidates' keys.
const (
	gatherJoins  = 20 * time.Millisecond  // several joins make one write
	retryRefusal = 500 * time.Millisecond // while another process has our ID
	forgetAfter  = time.Minute            // a dead candidate's key is kept for so long
)

// registrar keeps this process's own key under the prefix: it tells the others that the
// candidate lives, and in which elections, and it keeps a second process from taking
// part with the same ID.
type registrar struct {
	registered bool   // the key is ours, so we may take locks
	refusal    string // why not

	mode        Mode   // of the session that locks the key
	regVersion  uint64 // of what is to be in the key
	regWritten  uint64 // of what is in it
	regSession  string // that holds it
	regIndex    uint64 // of our last write to it
	regBytes    int    // of all entries in it
	regSent     bool
	regNotUntil time.Duration

	dead map[string]time.Duration // candidates without a session, and since when
}

// entryBytes is the length of an election's entry in the key, "name":-100, at most.
func entryBytes(name string) int { return len(name) + len(`"":-100,`) }

// change notes that the key has to say something else.
func (r *registrar) change(now time.Duration) {
	r.regVersion++
	r.regNotUntil = max(r.regNotUntil, now+gatherJoins)
}

// stepRegistrar writes our key where needed, and deletes keys of the dead.
func (c *core) stepRegistrar(now time.Duration, at func(time.Duration)) []action {
	session := c.sessions[c.mode]
	if session == "" {
		c.registered, c.regSession = false, ""
	}
	acts := c.stepDead(now, at)
	if session == "" || c.regSent || !c.haveView {
		return acts
	}
	if c.regSession == session && c.view.index >= c.regIndex {
		// Deleted or unlocked by somebody.
		if k, ok := c.view.candidates[c.self.ID]; !ok || k.session != session {
			c.regSession = ""
		}
	}
	if c.regSession == session && c.regWritten == c.regVersion {
		return acts
	}
	if c.regNotUntil > now {
		at(c.regNotUntil)
		return acts
	}
	if k, ok := c.view.candidates[c.self.ID]; ok && k.session != "" && k.session != session && c.view.index >= c.regIndex {
		// A try would be refused, and cost a Raft entry. The next view tells.
		c.registered, c.regSession, c.refusal = false, "", c.twin(k)
		return acts
	}
	c.regSent, c.regWritten = true, c.regVersion
	return append(acts, action{kind: doRegister, key: c.keys.candidate(c.self.ID), session: session, value: c.self.encode()})
}

// registerDone takes the outcome of a write of our key.
func (c *core) registerDone(now time.Duration, session string, index uint64, err error) []action {
	c.regSent = false
	switch {
	case session != c.sessions[c.mode]:
		c.regSession = ""
		return nil
	case err == nil:
		c.registered, c.refusal, c.regSession, c.regIndex = true, "", session, index
		return nil
	case certain(err):
		c.registered, c.regSession = false, ""
		c.refusal = fmt.Sprintf("cannot register candidate %q: %v", c.self.ID, err)
		if k, ok := c.view.candidates[c.self.ID]; ok && k.session != "" && k.session != session {
			c.refusal = c.twin(k)
		}
		c.regNotUntil = now + retryRefusal
		return []action{{kind: doVerify}}
	default:
		c.regSession = ""
		c.regNotUntil = now + retryUncertain
		return nil
	}
}

// twin says that somebody else has our ID.
func (c *core) twin(k candidateKey) string {
	return fmt.Sprintf("another live process is candidate %q (service instance %s): give each its own id, or wait until Consul has given that one up", c.self.ID, k.reg.Instance)
}

// stepDead forgets candidates that have been dead for long. One at a time is enough.
func (c *core) stepDead(now time.Duration, at func(time.Duration)) []action {
	if !c.registered {
		return nil
	}
	for id := range c.dead {
		if k, ok := c.view.candidates[id]; !ok || k.session != "" {
			delete(c.dead, id)
		}
	}
	var acts []action
	var due []string
	// One after the other: who comes second would only be refused.
	place := 0
	for id, k := range c.view.candidates {
		if k.session != "" && id < c.self.ID {
			place++
		}
	}
	for id, k := range c.view.candidates {
		if k.session != "" || id == c.self.ID {
			continue
		}
		since, ok := c.dead[id]
		if !ok {
			since = now
			c.dead[id] = since
		}
		when := since + forgetAfter + time.Duration(place)*time.Second
		if when <= now {
			due = append(due, id)
			c.dead[id] = now // again in a minute, if it is refused
		} else {
			at(when)
		}
	}
	slices.Sort(due)
	for _, id := range due {
		acts = append(acts, action{kind: doForget, key: c.keys.candidate(id), check: c.view.candidates[id].modify})
	}
	return acts
}
