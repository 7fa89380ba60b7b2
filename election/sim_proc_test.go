package election

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// proc is a process of the simulation: a core, with the rest of an Elector played by
// events. What happens in it while it is frozen happens when it thaws, and its clock
// goes on meanwhile.
type proc struct {
	w     *world
	name  string // of the process
	id    string // of the candidate
	check string
	cfg   Config
	core  *core

	base     time.Duration
	rate     float64
	frozen   bool
	dead     bool
	cut      bool          // from Consul
	hung     bool          // the application does not renew its lease
	slow     time.Duration // most that OnLoss needs
	lastBeat time.Duration
	held     []func()

	wakeSeq   int
	nonces    int
	watching  *watching
	interval  time.Duration
	keeping   map[Mode]*keeping
	saw       map[seenTerm]time.Duration // when terms of others were first seen
	terms     map[seenTerm]beginning     // of our own
	rewoundAt time.Duration              // when it last noticed that Consul went back
}

type seenTerm struct {
	election string
	token    uint64
}

// Now is the clock of the process.
func (p *proc) Now() time.Duration { return p.base + time.Duration(float64(p.w.now)*p.rate) }

func (w *world) start(id string, cfg Config, rate float64) *proc {
	p := &proc{
		w: w, name: fmt.Sprintf("p%d(%s)", len(w.procs), id), id: id, cfg: cfg, rate: rate,
		base: time.Duration(w.rng.IntN(1000)) * time.Hour, keeping: map[Mode]*keeping{}, saw: map[seenTerm]time.Duration{}, rewoundAt: -1, terms: map[seenTerm]beginning{},
	}
	p.check = "alive:" + p.name
	p.interval = cfg.timing(cfg.Mode).confirm
	self := registration{ID: id, Instance: p.name, Elections: map[string]int{}}
	p.core = newCore(self, cfg.Mode, keys{cfg.Prefix}, p, nil, func() string {
		p.nonces++
		return fmt.Sprintf("%s-%d", p.name, p.nonces)
	})
	p.core.regVersion = 1
	p.watching = &watching{p: p}
	w.procs = append(w.procs, p)
	w.consul.check(p.check, true)
	p.beat()
	p.keep(cfg.Mode)
	p.watching.query(0)
	p.confirm(0)
	return p
}

// in does something in the process, now or when it thaws.
func (p *proc) in(do func()) {
	switch {
	case p.dead:
	case p.frozen:
		p.held = append(p.held, do)
	default:
		do()
	}
}

// later does something in the process after a time of its own clock.
func (p *proc) later(d time.Duration, do func()) {
	p.w.after(time.Duration(float64(max(0, d))/p.rate), func() { p.in(do) })
}

func (p *proc) freeze(d time.Duration) {
	if p.frozen || p.dead {
		return
	}
	p.w.logf("%s frozen for %s", p.name, d)
	p.frozen = true
	p.w.after(d, func() {
		p.frozen = false
		p.w.logf("%s thaws", p.name)
		held := p.held
		p.held = nil
		// What waited comes in any order: it was on different goroutines.
		p.w.rng.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
		for _, do := range held {
			p.w.after(p.w.span(p.w.lag), func() { p.in(do) })
		}
	})
}

// kill ends the process.
func (p *proc) kill() {
	p.w.logf("%s killed", p.name)
	p.dead = true
	p.watching.gen++
}

// post is the loop of an Elector.
func (p *proc) post(ev event) {
	p.carryOut(ev(p.core, p.Now()))
	p.step()
}

func (p *proc) step() {
	acts, wake := p.core.step(p.Now())
	// Maps have no order, and the simulation has to be repeatable.
	slices.SortStableFunc(acts, func(a, b action) int {
		if a.campaign != nil || b.campaign != nil {
			return 0
		}
		return strings.Compare(a.key, b.key)
	})
	if len(acts) > 0 {
		p.carryOut(acts)
		p.step()
		return
	}
	p.wakeSeq++
	seq := p.wakeSeq
	if wake != never {
		p.later(wake-p.Now()+1, func() {
			if seq == p.wakeSeq {
				p.step()
			}
		})
	}
}

func (p *proc) carryOut(acts []action) {
	for _, a := range acts {
		switch a.kind {
		case doGained:
			p.w.logf("%s gains %s token %d", p.name, a.campaign.name, a.lead.token)
			p.w.gained(p, a.lead)
		case doLost:
			p.w.logf("%s loses %s token %d: %v", p.name, a.campaign.name, a.lead.token, a.err)
			a.lead.idle()
			p.later(p.w.span(p.slow), func() {
				p.post(func(c *core, _ time.Duration) []action { c.lossDelivered(a.campaign); return nil })
			})
		case doDone:
			p.w.logf("%s is done with %s: %v", p.name, a.campaign.name, a.err)
		case doRefresh:
			p.w.logf("%s refreshes, forget %v", p.name, a.forget)
			p.watching.refresh(a.forget)
		case doVerify:
			for _, m := range []Mode{Strict, Balanced, Fenced} {
				if k := p.keeping[m]; k != nil {
					k.poke()
				}
			}
		case doDestroy:
			p.w.logf("%s destroys its old session %s", p.name, a.session)
			p.request(callTimeout, func() func() { p.w.consul.destroy(a.session); return func() {} }, func() {})
		default:
			p.transact(a)
		}
	}
}

// errNoAnswer is what a process gets when a request fails.
var errNoAnswer = errors.New("no answer")

// request sends something to Consul: apply is done there, or never; then either answer
// or fail happens in the process, and which of them says nothing about apply.
func (p *proc) request(timeout time.Duration, apply func() (answer func()), fail func()) {
	w := p.w
	over := false
	once := func(f func()) func() {
		return func() {
			if !over {
				over = true
				f()
			}
		}
	}
	p.later(timeout, once(fail))
	there, back := w.span(w.lag), w.span(w.lag)
	lostThere, lostBack := w.chance(w.loss), w.chance(w.loss)
	if w.chance(w.loss) {
		there += w.span(8 * time.Second) // held by an agent that looks for a leader
	}
	if p.cut || lostThere {
		if w.chance(50) {
			w.after(there, func() { p.in(once(fail)) })
		}
		return
	}
	var arrive func()
	deadline := w.now + 7*time.Second
	arrive = func() {
		if w.down {
			if w.now > deadline || w.chance(10) {
				p.in(once(fail))
				return
			}
			w.after(50*time.Millisecond+w.span(400*time.Millisecond), arrive)
			return
		}
		answer := apply()
		if p.cut || lostBack {
			if w.chance(50) {
				w.after(back, func() { p.in(once(fail)) })
			}
			return
		}
		w.after(back, func() { p.in(once(answer)) })
	}
	w.after(there, arrive)
}

// transact carries out an action that is a transaction.
func (p *proc) transact(a action) {
	m, c := p.w.consul, a.campaign
	ops := a.ops()
	done := func(res api.TxnResults, err error) {
		p.post(func(k *core, now time.Duration) []action {
			switch {
			case a.kind == doCreate:
				k.createDone(now, c, err)
			case a.kind == doLock && err == nil:
				return k.lockDone(now, c, a.attempt, res[1].KV.ModifyIndex, res[1].KV.LockIndex, nil)
			case a.kind == doLock:
				return k.lockDone(now, c, a.attempt, 0, 0, err)
			case a.kind == doUnlock:
				k.unlockDone(now, c, err)
			case a.kind == doRegister && err == nil:
				return k.registerDone(now, a.session, res[0].KV.ModifyIndex, nil)
			case a.kind == doRegister:
				return k.registerDone(now, a.session, 0, err)
			}
			return nil
		})
	}
	p.later(p.w.span(p.w.lag), func() { // the queue
		if a.kind == doLock {
			c.started = p.Now()
		}
		p.request(txnTimeout, func() func() {
			res, errs := m.txn(ops)
			p.w.logf("consul: %s %s %s by %s: %v at %d", a.kind, a.key, a.value, p.name, errs == nil, m.raft)
			p.w.remember()
			if a.kind == doLock && errs == nil {
				p.w.lockAt[res[1].KV.ModifyIndex] = p.w.now
			}
			if errs != nil {
				return func() { done(nil, &refused{what: map[int]string{errs[0].OpIndex: errs[0].What}}) }
			}
			return func() { done(res, nil) }
		}, func() { done(nil, errNoAnswer) })
	})
}

// beginning is when a term began, and when its leader had last seen Consul go back.
type beginning struct{ at, rewoundAt time.Duration }

// see notes that a term of somebody was seen.
func (p *proc) see(t seenTerm) {
	if _, ok := p.saw[t]; !ok {
		p.saw[t] = p.w.now
	}
}
