package election

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// stage plays a scenario with some cores and writes down what they say and hear. Unlike
// in the simulation nothing takes time and nothing is random.
type stage struct {
	now    time.Duration
	consul *model
	actors []*actor
	log    strings.Builder
	dirty  bool // there is something to see
}

// actor is one process on the stage.
type actor struct {
	s       *stage
	id      string
	core    *core
	cfg     Config
	last    view
	forget  bool
	wake    time.Duration // when the core wants to look again
	read    time.Duration // next consistent read
	again   time.Duration // next try to make a session
	lookAt  time.Duration // next look at the session
	nonces  int
	cut     bool          // hears nothing and says nothing
	loses   int           // answers of so many transactions
	onLoss  time.Duration // that the application needs to stop
	stopped []deliveredLoss
}

type deliveredLoss struct {
	at time.Duration
	p  *campaign
}

func newStage() *stage {
	s := &stage{now: time.Hour} // no time that matters is zero
	s.consul = newModel(func() time.Duration { return s.now })
	s.consul.changed = func() { s.dirty = true }
	return s
}

func (s *stage) Now() time.Duration { return s.now }

func (s *stage) logf(who, format string, args ...any) {
	fmt.Fprintf(&s.log, "%6d ms  %-7s %s\n", (s.now - time.Hour).Milliseconds(), who, fmt.Sprintf(format, args...))
}

// start brings a process on the stage, which joins the election "jobs".
func (s *stage) start(id string) *actor {
	cfg, err := Config{ID: id}.withDefaults()
	if err != nil {
		panic(err)
	}
	a := &actor{s: s, id: id, cfg: cfg, wake: never, read: s.now, again: s.now, lookAt: never}
	n := len(s.actors)
	self := registration{ID: id, Instance: fmt.Sprintf("elector-%s-%d", id, n), Elections: map[string]int{}}
	a.core = newCore(self, cfg.Mode, keys{cfg.Prefix}, s, nil, func() string {
		a.nonces++
		return fmt.Sprintf("%s%d-%d", id, n, a.nonces)
	})
	a.core.regVersion = 1
	s.actors = append(s.actors, a)
	opts, err := Options{}.withDefaults(cfg)
	if err != nil {
		panic(err)
	}
	a.do("joins jobs", func(c *core) []action {
		if _, err := c.join(s.now, "jobs", opts, cfg.timing(opts.Mode)); err != nil {
			panic(err)
		}
		return nil
	})
	a.look()
	return a
}

// do is something that happens to a process.
func (a *actor) do(what string, event func(c *core) []action) {
	if what != "" {
		a.s.logf(a.id, "%s", what)
	}
	a.carryOut(event(a.core))
	a.step()
}

func (a *actor) step() {
	for {
		acts, wake := a.core.step(a.s.now)
		a.wake = wake
		if len(acts) == 0 {
			return
		}
		a.carryOut(acts)
	}
}

func (a *actor) carryOut(acts []action) {
	c, s := a.core, a.s
	for _, act := range acts {
		switch act.kind {
		case doGained:
			s.logf(a.id, "gains token %d, term %d, trusted until %d ms", act.lead.token, act.lead.term, (act.lead.Until() - time.Hour).Milliseconds())
		case doLost:
			s.logf(a.id, "loses token %d: %v", act.lead.token, act.err)
			act.lead.idle()
			a.stopped = append(a.stopped, deliveredLoss{s.now + a.onLoss, act.campaign})
		case doDone:
			s.logf(a.id, "is no candidate any more: %v", act.err)
		case doRefresh:
			s.logf(a.id, "reads everything anew")
			a.forget = a.forget || act.forget
			s.dirty = true
		case doVerify:
			a.lookAt = s.now
		case doDestroy:
			s.logf(a.id, "destroys old session %s", short(act.session))
			s.consul.destroy(act.session)
		default:
			a.carryOut(a.transact(c, act))
		}
	}
}

// transact carries out a transaction at once.
func (a *actor) transact(c *core, act action) []action {
	s, p := a.s, act.campaign
	if p != nil && act.kind == doLock {
		p.started = s.now
	}
	err := errNoAnswer
	var token, term uint64
	outcome := "no answer, not done"
	if !a.cut {
		res, errs := s.consul.txn(act.ops())
		switch {
		case errs != nil:
			err = &refused{what: map[int]string{errs[0].OpIndex: errs[0].What}}
			outcome = "refused: " + errs[0].What
		case len(res) > 0:
			last := res[len(res)-1].KV
			err, token, term = nil, last.ModifyIndex, last.LockIndex
			outcome = fmt.Sprintf("at %d", token)
		default:
			err, outcome = nil, "done"
		}
		if a.loses > 0 {
			a.loses--
			err, outcome = errNoAnswer, "no answer, though "+outcome
		}
	}
	check := ""
	if act.check > 0 {
		check = fmt.Sprintf(" if at %d", act.check)
	}
	s.logf(a.id, "%s %s%s %s", act.kind, act.key, check, act.value)
	s.logf("consul", "%s", shorten(outcome))
	switch act.kind {
	case doCreate:
		c.createDone(s.now, p, err)
	case doLock:
		return c.lockDone(s.now, p, act.attempt, token, term, err)
	case doUnlock:
		c.unlockDone(s.now, p, err)
	case doRegister:
		return c.registerDone(s.now, act.session, token, err)
	}
	return nil
}

// short is a session's name.
func short(id string) string {
	number, _, _ := strings.Cut(id, "-")
	return "s" + strings.TrimLeft(number, "0")
}

// shorten makes the sessions in a text short.
func shorten(text string) string {
	const tail = "-0000-0000-0000-000000000000"
	for {
		i := strings.Index(text, tail)
		if i < 8 {
			return text
		}
		text = text[:i-8] + short(text[i-8:i]) + text[i+len(tail):]
	}
}

// look is an answer to the blocking query, if there is something new.
func (a *actor) look() {
	s := a.s
	if a.cut {
		return
	}
	list := s.consul.list("election/")
	pairs := make(api.KVPairs, len(list))
	copy(pairs, list)
	v := a.core.keys.parse(a.last, pairs, s.consul.prefixIndex("election/"), s.now, a.forget)
	// The query waits for a higher index.
	if a.core.haveView && !a.forget && v.index <= a.last.index {
		return
	}
	a.last, a.forget = v, false
	a.do("sees "+v.story(), func(c *core) []action { c.setView(v); return nil })
}

// story is a view in words.
func (v view) story() string {
	text := fmt.Sprintf("index %d:", v.index)
	if v.reset {
		text += " (anew)"
	}
	for _, name := range slices.Sorted(maps.Keys(v.leaders)) {
		k := v.leaders[name]
		state := k.rec.State
		if state == "" {
			state = "unreadable"
		}
		if k.rec.Candidate != "" {
			state += " by " + k.rec.Candidate
		}
		if k.session != "" {
			state += ", locked by " + short(k.session)
		}
		text += fmt.Sprintf(" %s at %d %s;", name, k.modify, state)
	}
	for _, id := range slices.Sorted(maps.Keys(v.candidates)) {
		state := "dead"
		if k := v.candidates[id]; k.session != "" {
			state = short(k.session)
		}
		text += fmt.Sprintf(" %s (%s)", id, state)
	}
	return text
}

// due is the next time at which something happens in a process by itself.
func (a *actor) due() time.Duration {
	next := min(a.wake, a.read, a.again, a.lookAt)
	for _, l := range a.stopped {
		next = min(next, l.at)
	}
	return next
}

// happen is what happens in a process at its time.
func (a *actor) happen() {
	s := a.s
	for len(a.stopped) > 0 && a.stopped[0].at <= s.now {
		p := a.stopped[0].p
		a.stopped = a.stopped[1:]
		a.do("has stopped", func(c *core) []action { c.lossDelivered(p); return nil })
	}
	if a.lookAt <= s.now {
		a.lookAt = never
		if id := a.core.sessions[Balanced]; !a.cut && id != "" && !s.consul.renew(id) {
			a.again = s.now + 10*time.Millisecond
			a.do("finds its session "+short(id)+" gone", func(c *core) []action { return c.sessionDown(Balanced) })
		}
	}
	if a.again <= s.now && !a.cut {
		a.again = never
		id, err := s.consul.newSession(modelSession{name: a.id, delay: a.cfg.timing(Balanced).delay})
		if err != nil {
			panic(err)
		}
		a.do("has session "+short(id), func(c *core) []action { c.sessionUp(Balanced, id); return nil })
	}
	if a.read <= s.now {
		a.read = s.now + a.cfg.timing(Balanced).confirm
		if !a.cut {
			was, index := a.core.suspect, s.consul.prefixIndex("election/")
			switch {
			case a.core.confirm(s.now, s.now, index):
				a.read = s.now + retryRead
			case !a.core.hasBeen: // the first one is waited for
				a.read = s.now + 50*time.Millisecond
			}
			if a.core.suspect && !was {
				s.logf(a.id, "reads index %d: consul went back", index)
			}
		}
	}
	a.step()
}

// run lets time pass.
func (s *stage) run(d time.Duration) {
	end := s.now + d
	for steps := 0; ; steps++ {
		if steps > 10000 {
			panic("the stage turns in circles:\n" + s.log.String())
		}
		for s.dirty {
			s.dirty = false
			for _, a := range s.actors {
				a.look()
			}
		}
		next := end
		for _, a := range s.actors {
			next = min(next, max(s.now, a.due()))
		}
		s.now = next
		happened := false
		for _, a := range s.actors {
			if a.due() <= s.now {
				happened = true
				a.happen()
			}
		}
		if !happened && s.now >= end {
			return
		}
	}
}

// dies ends a process; Consul ends its session.
func (s *stage) dies(a *actor) {
	s.logf(a.id, "dies")
	id := a.core.sessions[Balanced]
	s.actors = slices.DeleteFunc(s.actors, func(b *actor) bool { return a == b })
	s.run(a.cfg.TTL)
	s.logf("consul", "session %s ends", short(id))
	s.consul.destroy(id)
}
