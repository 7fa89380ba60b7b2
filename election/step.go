package election

import (
	"slices"
	"time"
)

// maxTries bounds the tries that a campaign remembers.
const maxTries = 8

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// step looks at everything that time or events can have changed, changes the state,
// and returns what is to be done, and when to look again at the latest.
func (c *core) step(now time.Duration) (acts []action, wake time.Duration) {
	wake = never
	at := func(t time.Duration) {
		if t < wake {
			wake = t
		}
	}
	var over []*campaign
	for _, p := range c.campaigns {
		if p.leaseUntil > 0 && !p.leaving {
			if p.leaseUntil <= now {
				acts = append(acts, c.leave(p, ErrLeaseExpired)...)
			} else {
				at(p.leaseUntil)
			}
		}
		switch p.phase {
		case leading:
			acts = append(acts, c.stepLeading(now, p, at)...)
		case losing:
			acts = append(acts, c.stepLosing(now, p, at)...)
		case releasing:
			acts = append(acts, c.stepReleasing(now, p, at)...)
		case candidate:
			if p.leaving {
				if len(p.tries) == 0 || c.sessions[p.opts.Mode] != p.session {
					over = append(over, p)
					continue
				}
				// It may hold the lock without knowing.
				p.phase, p.notBefore = releasing, 0
				acts = append(acts, c.stepReleasing(now, p, at)...)
				continue
			}
			acts = append(acts, c.stepCandidate(now, p, at)...)
		}
	}
	for _, p := range over {
		c.drop(now, p)
		acts = append(acts, action{kind: doDone, campaign: p, err: p.left})
	}
	acts = append(acts, c.stepRegistrar(now, at)...)
	acts = append(acts, c.stepSweep(now, at)...)
	acts = append(acts, c.stepView(now, at)...)
	return acts, wake
}

// stepView gives up a watch that hangs, or that shows what is no more.
func (c *core) stepView(now time.Duration, at func(time.Duration)) []action {
	var late time.Duration
	switch {
	case c.suspect:
		late = c.askAgain
	case c.lagSince != 0:
		late = c.lagSince + c.slow
	default:
		return nil
	}
	if late > now {
		at(late)
		return nil
	}
	// Consul may also be slow, so each time it gets longer.
	c.slow = min(2*c.slow, maxSlow)
	c.lagSince, c.askAgain = 0, now+c.slow
	return []action{{kind: doRefresh, forget: c.suspect}}
}

// maxSlow bounds the time that a watch gets.
const maxSlow = 10 * time.Second

// stepLeading finds out whether the term goes on.
func (c *core) stepLeading(now time.Duration, p *campaign, at func(time.Duration)) []action {
	until := p.lead.Until()
	if until <= now {
		// The lock is given back as soon as Consul can be told: who cannot hear from it
		// in time must not keep others from leading, and heartbeats may get through
		// where nothing else does.
		return []action{c.lose(p, ErrTrustExpired, true)}
	}
	at(until)
	// A view from before the lock says nothing about it.
	if !c.haveView || c.view.index < p.token && (!c.view.reset || c.view.at <= p.started) {
		return nil
	}
	k, ok := c.view.leaders[p.name]
	if ok && k.session == p.session && k.modify == p.token {
		return nil
	}
	ours := ok && k.session == p.session // overwritten, and still locked by us
	p.seenToken = max(p.seenToken, p.token, k.modify)
	return []action{c.lose(p, p.why(k, ok), ours)}
}

// stepLosing gives the lock back for an application that does not stop although its lease
// or its trust has expired: it may hang, and others are not to wait for it. It has had a
// window to stop, and as the key does not say that it has, the others wait for one more.
// The campaign stays where it is until the application has stopped.
func (c *core) stepLosing(now time.Duration, p *campaign, at func(time.Duration)) []action {
	if !p.release || p.giveUp == never {
		return nil
	}
	if p.giveUp == 0 {
		p.giveUp = now + p.trust
	}
	if p.giveUp > now {
		at(p.giveUp)
		return nil
	}
	k, ok := c.view.leaders[p.name]
	if !ok || k.session != p.session || p.session != c.sessions[p.opts.Mode] {
		p.giveUp = never // it is given back
		return nil
	}
	p.giveUp = now + retryUncertain
	at(p.giveUp)
	rec := record{State: stateVacant, Candidate: c.self.ID, WindowMS: max(p.window, p.seenWindow).Milliseconds()}
	return []action{{kind: doUnlock, key: c.keys.leader(p.name), session: p.session, check: k.modify, value: rec.encode()}}
}

// stepReleasing gives the lock back, again and again until Consul says something.
func (c *core) stepReleasing(now time.Duration, p *campaign, at func(time.Duration)) []action {
	if p.sent {
		return nil
	}
	if p.notBefore > now {
		at(p.notBefore)
		return nil
	}
	session := c.sessions[p.opts.Mode]
	if session != p.session || session == "" {
		p.tries = nil
		c.freed(p) // the lock went with its session
		at(now)
		return nil
	}
	// The key is as our lock left it, unless somebody has overwritten it since.
	check := p.token
	if k, ok := c.view.leaders[p.name]; ok && k.session == session {
		check = max(check, k.modify)
	}
	rec := record{State: stateVacant, Candidate: c.self.ID, WindowMS: max(p.window, p.seenWindow).Milliseconds()}
	if !p.vacate {
		rec = record{
			State: stateReleased, Candidate: c.self.ID, Mode: p.opts.Mode, WindowMS: p.window.Milliseconds(),
			Token: max(check, p.seenToken), To: p.releaseTo,
		}
	}
	p.sent = true
	return []action{{kind: doUnlock, campaign: p, key: c.keys.leader(p.name), session: session, check: check, value: rec.encode()}}
}

// stepSweep gives back locks that belong to no campaign: a try that nobody waits for
// any more may still have been carried out. And it ends sessions that ended once and
// came back with a snapshot: their check passes as long as this process lives, so
// without that nobody could ever take what they hold, our own key included.
func (c *core) stepSweep(now time.Duration, at func(time.Duration)) []action {
	if c.sweepAt > 0 && c.sweepAt <= now {
		c.sweep = true
	}
	if !c.sweep {
		if c.sweepAt > 0 {
			at(c.sweepAt)
		}
		return nil
	}
	c.sweep, c.sweepAt = false, 0
	var acts []action
	ghosts := map[string]bool{}
	for name, k := range c.view.leaders {
		switch {
		case k.session == "":
		case slices.Contains(c.ended, k.session):
			ghosts[k.session] = true
		case c.byName[name] == nil && c.ours(k.session):
			// As with a campaign, nobody knows what came in between.
			rec := record{State: stateVacant, Candidate: c.self.ID, WindowMS: k.rec.WindowMS}
			if k.modify > c.rewound {
				rec.State, rec.Token = stateReleased, k.modify
			}
			acts = append(acts, action{kind: doUnlock, key: c.keys.leader(name), session: k.session, check: k.modify, value: rec.encode()})
		}
	}
	if k, ok := c.view.candidates[c.self.ID]; ok && slices.Contains(c.ended, k.session) {
		ghosts[k.session] = true
	}
	for _, id := range c.ended {
		if ghosts[id] {
			acts = append(acts, action{kind: doDestroy, session: id})
			c.sweepAt = now + retryGhost
			at(c.sweepAt)
		}
	}
	return acts
}

// retryGhost is the time after which it is tried again to end a session that came back.
const retryGhost = time.Second

// ours says whether a session is one of those that live.
func (c *core) ours(session string) bool {
	for _, id := range c.sessions {
		if id == session {
			return true
		}
	}
	return false
}

// stepCandidate takes the lock when it is time.
func (c *core) stepCandidate(now time.Duration, p *campaign, at func(time.Duration)) []action {
	session := c.sessions[p.opts.Mode]
	if !c.haveView || c.suspect {
		return nil
	}
	k, ok := c.view.leaders[p.name]
	if ok && k.session != "" && k.session != session {
		p.held(k)
		return nil
	}
	if ok && k.session == "" {
		p.free(k, now) // also without a session: the wait begins when it is seen
	}
	if session == "" {
		return nil
	}
	first := p.notBefore
	if !ok || !c.handedToUs(k) {
		first = max(first, p.deferred)
	}
	if first > now {
		at(first)
		return nil
	}
	fresh := c.fresh(now, p.trust)
	if ok && k.session == session && !fresh && c.registered && slices.Contains(p.tries, k.rec.Attempt) {
		// Ours, but its answer could not be trusted, nor could the next one.
		p.phase, p.session, p.token = releasing, session, k.modify
		return c.stepReleasing(now, p, at)
	}
	if ok && k.session == session && (!c.registered || k.rec.State != stateHeld || !slices.Contains(p.tries, k.rec.Attempt)) {
		// Ours, and not by our doing, as after a restored snapshot: somebody else
		// may still trust to hold it.
		p.phase, p.session, p.token, p.vacate = releasing, session, k.modify, true
		return c.stepReleasing(now, p, at)
	}
	if !c.registered || !fresh {
		return nil
	}
	if !ok {
		p.phase = creating
		p.freeModify = 0
		rec := record{State: stateVacant, Candidate: c.self.ID, WindowMS: max(p.window, p.seenWindow).Milliseconds()}
		return []action{{kind: doCreate, campaign: p, key: c.keys.leader(p.name), value: rec.encode()}}
	}
	if k.session == session {
		// Ours all the time since that attempt: a new term may begin at once.
		return []action{c.lock(now, p, k, session)}
	}
	if p.dueViews != c.viewSets {
		p.dueViews = c.viewSets
		p.due = p.freeSince + p.wait(k, c.rewound) + c.turn(p, k)
	}
	if p.due > now {
		at(p.due)
		return nil
	}
	return []action{c.lock(now, p, k, session)}
}

// fresh says whether a consistent read agreed with the view within a trust window.
func (c *core) fresh(now, trust time.Duration) bool { return c.hasBeen && now-c.confirmed < trust }

// turn is how long this candidate lets better ones go first.
func (c *core) turn(p *campaign, k lockKey) time.Duration {
	wait, without := time.Duration(0), ""
	if k.rec.State == stateReleased {
		if c.handedToUs(k) {
			return 0
		}
		if c.alive(k.rec.To, p.name) {
			wait = handOverGrace
		}
		without = k.rec.Candidate // does not want it
	}
	return wait + time.Duration(place(c.view, p.name, c.self.ID, without))*rankSpread
}

// handedToUs says whether the lock was released for this candidate.
func (c *core) handedToUs(k lockKey) bool {
	return k.session == "" && k.rec.State == stateReleased && k.rec.To == c.self.ID
}

// alive says whether somebody is a live candidate of an election.
func (c *core) alive(id, election string) bool {
	k, ok := c.view.candidates[id]
	_, takesPart := k.reg.Elections[election]
	return ok && takesPart && k.session != ""
}

// lock tries to take the lock of a key that is still as it was seen.
func (c *core) lock(now time.Duration, p *campaign, k lockKey, session string) action {
	attempt := c.nonce()
	p.phase, p.started, p.session = locking, now, session
	if len(p.tries) == maxTries {
		p.tries = p.tries[:maxTries-1] // keep the first: it may be the one that holds
	}
	p.tries = append(p.tries, attempt)
	rec := record{
		State: stateHeld, Candidate: c.self.ID, Address: c.self.Address, Meta: c.self.Meta,
		Mode: p.opts.Mode, WindowMS: p.window.Milliseconds(), Attempt: attempt,
	}
	return action{kind: doLock, campaign: p, attempt: attempt, key: c.keys.leader(p.name), session: session, check: k.modify, value: rec.encode()}
}

// trouble says why the process cannot take part, as far as the core knows.
func (c *core) trouble(now time.Duration, m Mode, trust time.Duration) string {
	switch {
	case !c.haveView:
		return "consul has not answered yet"
	case c.suspect:
		return "consul went back in time, as after a restored snapshot; reading everything again"
	case c.sessions[m] == "":
		return "no consul session"
	case !c.registered:
		return c.refusal
	case !c.fresh(now, trust):
		return "no consistent read of consul was answered within the trust window"
	}
	return ""
}
