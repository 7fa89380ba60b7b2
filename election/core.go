package election

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// core decides. It holds all state of an Elector, and has no clock, no network and no
// goroutine: events come in as methods with the time at which they happened, and step
// says what is to be done next. That makes every decision a thing that can be tested.
type core struct {
	self  registration
	keys  keys
	clock clock
	kv    fencedKV
	// nonce makes the attempt of a lock.
	nonce func() string

	campaigns []*campaign // in the order of joining
	byName    map[string]*campaign

	view      view
	haveView  bool
	suspect   bool          // the view is not what Consul has; nothing is confirmed by it
	viewSets  uint64        // counts the views with other candidates than before
	confirmed time.Duration // start of the last consistent read that agreed with the view
	hasBeen   bool          // there was one
	highest   uint64        // index that was ever seen
	rewound   uint64        // highest at the time when Consul last went back
	pending   []confirmation
	lagSince  time.Duration // since when the view is behind the consistent reads
	slow      time.Duration // how far it may be behind before its connection is given up
	askAgain  time.Duration // when to read everything anew while the view is suspect

	sessions map[Mode]string // those that live
	ended    []string        // those that ended; a restored snapshot brings them back
	registrar
	sweep   bool          // the view is new: look for locks that nobody wants
	sweepAt time.Duration // look again, after one of them could not be given back

	gains  uint64
	losses map[string]uint64
}

// confirmation is a consistent read that waits for the view to catch up.
type confirmation struct {
	index   uint64
	started time.Duration
}

// maxPending bounds them; the oldest is forgotten first.
const maxPending = 8

func newCore(self registration, mode Mode, k keys, clk clock, kv fencedKV, nonce func() string) *core {
	return &core{
		self: self, keys: k, clock: clk, kv: kv, nonce: nonce,
		registrar: registrar{mode: mode, refusal: "not registered yet", dead: map[string]time.Duration{}},
		byName:    map[string]*campaign{}, sessions: map[Mode]string{}, losses: map[string]uint64{}, slow: MinTTL * 3 / 10,
	}
}

// join adds a campaign. The options have their defaults.
func (c *core) join(now time.Duration, name string, opts Options, t timing) (*campaign, error) {
	if c.byName[name] != nil {
		return nil, fmt.Errorf("election %q: %w", name, ErrJoined)
	}
	p := &campaign{name: name, opts: opts, timing: t}
	if opts.Lease > 0 {
		p.leaseUntil = now + opts.Lease
	}
	c.campaigns = append(c.campaigns, p)
	c.byName[name] = p
	c.self.Elections[name] = opts.Priority
	c.regBytes += entryBytes(name)
	c.change(now)
	return p, nil
}

// drop removes a campaign that is over.
func (c *core) drop(now time.Duration, p *campaign) {
	c.campaigns = slices.DeleteFunc(c.campaigns, func(q *campaign) bool { return q == p })
	delete(c.byName, p.name)
	delete(c.self.Elections, p.name)
	c.regBytes -= entryBytes(p.name)
	c.change(now)
}

// setView takes what the watch has seen.
func (c *core) setView(v view) {
	if !c.haveView || !sameCandidates(c.view, v) {
		c.viewSets++
	}
	if v.reset {
		c.suspect, c.pending = false, nil
		c.rewound = max(c.rewound, c.highest)
	}
	c.highest = max(c.highest, v.index)
	c.view, c.haveView, c.sweep = v, true, true
	for _, p := range c.campaigns {
		if v.reset {
			// The lock may have been somebody else's in between, and who waits for a
			// free key has to wait anew.
			p.tries, p.freeModify = nil, 0
		}
		// In all phases, also while a lock is under way: if Consul goes back to before
		// this holder, that lock may be carried out all the same.
		if k, ok := v.leaders[p.name]; ok && k.session != "" && k.session != c.sessions[p.opts.Mode] {
			p.held(k)
		}
	}
	c.slow = MinTTL * 3 / 10
	if c.suspect {
		return // only a view that was read anew confirms anything
	}
	for i := len(c.pending) - 1; i >= 0; i-- {
		if c.pending[i].index <= v.index {
			c.apply(c.pending[i].started)
			c.pending = slices.Delete(c.pending, 0, i+1)
			break
		}
	}
	if len(c.pending) == 0 {
		c.lagSince = 0
	}
}

// sameCandidates says whether two views have the same live candidates.
func sameCandidates(a, b view) bool {
	if len(a.candidates) != len(b.candidates) {
		return false
	}
	for id, k := range b.candidates {
		old, ok := a.candidates[id]
		if !ok || old.modify != k.modify {
			return false
		}
	}
	return true
}

// confirm takes a consistent read of the prefix's index. Such a read proves that what
// a view at this index shows was so when the read was sent, or later: no lock that the
// view shows as ours can have been lost before. That extends the trust of all
// elections at once. It returns true if another read is needed at once.
func (c *core) confirm(now, started time.Duration, index uint64) (again bool) {
	switch {
	case !c.haveView || c.suspect:
	case len(c.view.candidates) == 0 && len(c.view.leaders) == 0:
		// The index of an empty prefix is that of all keys in Consul.
	case index > c.view.index:
		c.highest = max(c.highest, index)
		if c.lagSince == 0 {
			c.lagSince = now
		}
		if len(c.pending) == maxPending {
			c.pending = c.pending[1:]
		}
		c.pending = append(c.pending, confirmation{index, started})
	case index < c.view.index && c.view.at <= started:
		// Consul went back, so the view is of a past that is no more.
		c.suspect, c.askAgain, c.pending = true, 0, nil
	case index < c.view.index:
		// The view came while the read was on the way. Which of the two is older
		// cannot be told, so the next read has to tell.
		return true
	default:
		c.apply(started)
	}
	return false
}

// apply extends the trust of every lock that the view shows as ours.
func (c *core) apply(started time.Duration) {
	c.confirmed, c.hasBeen = max(c.confirmed, started), true
	for _, p := range c.campaigns {
		if p.phase != leading {
			continue
		}
		if k, ok := c.view.leaders[p.name]; ok && k.session == p.session && k.modify == p.token && p.lead.Valid() {
			p.lead.extend(started + p.trust)
		}
	}
}

// sessionUp takes a new session.
func (c *core) sessionUp(m Mode, id string) { c.sessions[m] = id }

// sessionDown takes the end of a session. With it go all its locks.
func (c *core) sessionDown(m Mode) []action {
	if id := c.sessions[m]; id != "" {
		if len(c.ended) == maxEnded {
			c.ended = c.ended[1:]
		}
		c.ended = append(c.ended, id)
	}
	delete(c.sessions, m)
	c.sweep = c.haveView // should it live all the same, its locks must not
	var acts []action
	for _, p := range c.campaigns {
		if p.opts.Mode != m {
			continue
		}
		p.tries = nil
		if p.phase == leading {
			acts = append(acts, c.lose(p, fmt.Errorf("%w: its session ended", ErrLockLost), false))
		}
	}
	return acts
}

// maxEnded bounds the sessions of the past that are remembered; the oldest is forgotten
// first.
const maxEnded = 64

// lockDone takes the outcome of a lock.
func (c *core) lockDone(now time.Duration, p *campaign, attempt string, token, term uint64, err error) []action {
	if p.phase != locking {
		return nil
	}
	p.phase = candidate
	if !slices.Contains(p.tries, attempt) {
		return nil // the session ended meanwhile, and whatever was locked went with it
	}
	switch {
	case err == nil:
	case certain(err):
		p.refuse(now, err)
		if p.refusals > toldRefusals {
			return nil // the session is not to blame
		}
		return []action{{kind: doVerify, campaign: p}}
	default:
		// It may have been done. The view will tell.
		p.notBefore = max(p.notBefore, now+retryUncertain)
		return nil
	}
	if p.started+p.trust-p.opts.Grace <= now {
		// The answer took too long to be trusted. The lock is ours all the same, and
		// taking it again is a new term.
		return nil
	}
	p.phase, p.token, p.term = leading, token, term
	p.refusals, p.refusal = 0, ""
	p.tries = []string{attempt}
	p.lead = newLeadership(p, c.keys.leader(p.name), c.clock, c.kv, p.started+p.trust)
	c.gains++
	acts := []action{{kind: doGained, campaign: p, lead: p.lead}}
	if p.leaving {
		acts = append(acts, c.lose(p, p.left, true))
	}
	return acts
}

// lose counts and begins the end of a term.
func (c *core) lose(p *campaign, reason error, release bool) action {
	c.losses[lossName(reason)]++
	return p.lose(reason, release)
}

// lossName is the reason of a loss as a label.
func lossName(err error) string {
	switch {
	case errors.Is(err, ErrResigned):
		return "resigned"
	case errors.Is(err, ErrHandedOver):
		return "handed over"
	case errors.Is(err, ErrLeft):
		return "left"
	case errors.Is(err, ErrLeaseExpired):
		return "lease expired"
	case errors.Is(err, ErrTrustExpired):
		return "trust expired"
	case errors.Is(err, ErrClosed):
		return "closed"
	default:
		return "lock lost"
	}
}

// lossDelivered: the application knows that its term is over.
func (c *core) lossDelivered(p *campaign) {
	if p.phase != losing {
		return
	}
	if p.release {
		p.phase, p.notBefore = releasing, 0
		return
	}
	c.freed(p)
}

// freed ends a term for good: the lock is not ours any more, or not ours to release.
func (c *core) freed(p *campaign) {
	p.phase, p.release, p.vacate, p.releaseTo, p.lead = candidate, false, false, "", nil
	for _, f := range p.waiting {
		f(nil)
	}
	p.waiting = nil
}

// createDone takes the outcome of a create. Whether the key is there now, and by whom,
// is in the next view.
func (c *core) createDone(now time.Duration, p *campaign, err error) {
	if p.phase != creating {
		return
	}
	p.phase = candidate
	switch {
	case err == nil:
		p.notBefore = now + retryRefused
	case certain(err):
		p.refuse(now, err)
	default:
		p.notBefore = max(p.notBefore, now+retryUncertain)
	}
}

// unlockDone takes the outcome of an unlock; of a sweep if there is no campaign.
func (c *core) unlockDone(now time.Duration, p *campaign, err error) {
	if p == nil {
		if err != nil && !certain(err) {
			c.sweepAt = now + retryUncertain
		}
		return
	}
	if p.phase != releasing {
		return
	}
	p.sent = false
	switch {
	case err == nil:
		if !p.vacate {
			p.deferred = now + resignedWait
		}
		p.tries, p.notBefore = nil, now+retryRefused // until the view shows it
		c.freed(p)                                   // a term that was released is not taken up again
	case certain(err):
		p.tries, p.notBefore = nil, now+retryRefused
		c.freed(p) // it was not ours any more
	default:
		p.notBefore = now + retryUncertain
	}
}

// resign ends the term of a leader, or of whom is about to be one.
func (c *core) resign(p *campaign, reason error, to string, done func(error)) []action {
	switch p.phase {
	case leading:
		p.releaseTo = to
		if done != nil {
			p.waiting = append(p.waiting, done)
		}
		return []action{c.lose(p, reason, true)}
	case losing, releasing:
		if done != nil {
			p.waiting = append(p.waiting, done)
		}
	default:
		if done != nil {
			done(fmt.Errorf("election %q: %w", p.name, ErrNotLeader))
		}
	}
	return nil
}

// leave ends a campaign. The reason is told to whoever waits on it.
func (c *core) leave(p *campaign, reason error) []action {
	if p.leaving {
		return nil
	}
	p.leaving, p.left = true, reason
	if p.phase == leading {
		return []action{c.lose(p, reason, true)}
	}
	return nil
}

// renew extends the application's lease, and says whether it leads.
func (c *core) renew(now time.Duration, p *campaign) error {
	if p.leaving {
		return fmt.Errorf("election %q: %w", p.name, p.left)
	}
	if p.opts.Lease > 0 {
		p.leaseUntil = now + p.opts.Lease
	}
	if p.phase != leading || !p.lead.Valid() {
		return fmt.Errorf("election %q: %w", p.name, ErrNotLeader)
	}
	return nil
}
