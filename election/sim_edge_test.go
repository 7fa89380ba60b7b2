package election

import (
	"time"

	"github.com/hashicorp/consul/api"
)

// watching plays the blocking query of an Elector: see Elector.watch.
type watching struct {
	p             *proc
	gen           int // of the query
	last          view
	wanted        bool
	forget        bool
	blocked       bool
	index         uint64 // that the blocked query waits for
	failed        int
	blockedListen listing
}

// query begins the next query after a time.
func (q *watching) query(after time.Duration) {
	q.gen++
	q.blocked = false
	gen, p := q.gen, q.p
	p.later(after, func() {
		if gen != q.gen {
			return
		}
		index := q.last.index
		wanted, forget := q.wanted, q.forget
		if wanted || forget || q.failed > 0 {
			index = 0
		}
		q.wanted = false
		timeout := callTimeout
		if index > 0 {
			timeout += watchWait + watchWait/16
		}
		p.later(timeout, func() {
			if gen == q.gen {
				q.failed++
				q.query(0)
			}
		})
		if p.w.chance(p.w.hang) {
			return // for ever, or until somebody asks for a refresh
		}
		q.index = index
		p.w.after(p.w.span(p.w.lag), func() {
			if gen != q.gen {
				return
			}
			if p.cut || p.w.down {
				q.fail()
				return
			}
			q.blocked = true
			q.blockedListen = listing{index: p.w.consul.prefixIndex("election/"), pairs: p.w.consul.list("election/")}
			if len(p.w.past) > 0 && p.w.chance(p.w.stale) {
				old := p.w.past[p.w.rng.IntN(len(p.w.past))]
				if p.w.now-old.at < 500*time.Millisecond && old.index > index {
					q.answer(old, wanted)
					return
				}
			}
			q.wake()
		})
	})
}

// wake answers the blocked query if there is something new.
func (q *watching) wake() {
	if !q.blocked {
		return
	}
	now := listing{index: q.p.w.consul.prefixIndex("election/"), pairs: q.p.w.consul.list("election/")}
	if now.index > q.index {
		q.answer(now, q.index == 0)
	}
	q.blockedListen = now
}

// abandoned answers with what there was: the store is being replaced.
func (q *watching) abandoned() {
	if q.blocked {
		q.answer(q.blockedListen, false)
	}
}

// fail breaks the connection.
func (q *watching) fail() {
	gen, p := q.gen, q.p
	q.blocked = false
	p.w.after(p.w.span(p.w.lag), func() {
		p.in(func() {
			if gen == q.gen {
				q.failed++
				q.query(p.w.span(min(time.Second, 25*time.Millisecond<<min(q.failed, 6))))
			}
		})
	})
}

func (q *watching) answer(l listing, wanted bool) {
	gen, p := q.gen, q.p
	q.blocked = false
	lag := p.w.lag
	if p.w.chance(p.w.stale) {
		lag += time.Second
	}
	p.w.after(p.w.span(lag), func() {
		if p.cut {
			return
		}
		p.in(func() {
			if gen != q.gen {
				return
			}
			q.gen++
			pairs := make(api.KVPairs, len(l.pairs))
			copy(pairs, l.pairs)
			v := p.core.keys.parse(q.last, pairs, l.index, p.Now(), q.forget)
			news := v.index != q.last.index || v.reset || wanted
			q.last, q.forget, q.failed = v, false, 0
			if news {
				// The goroutine of the watch may be slow to come to the loop.
				p.w.after(p.w.span(p.w.lag), func() {
					p.in(func() {
						p.w.logf("%s sees index %d reset %v", p.name, v.index, v.reset)
						if v.reset {
							p.rewoundAt = p.w.now
						}
						for name, k := range v.leaders {
							p.see(seenTerm{name, k.modify})
						}
						p.post(func(c *core, _ time.Duration) []action { c.setView(v); return nil })
						q.query(p.w.span(60 * time.Millisecond))
					})
				})
				return
			}
			q.query(0)
		})
	})
}

// refresh is refresh.ask.
func (q *watching) refresh(forget bool) {
	q.wanted, q.forget = true, q.forget || forget
	q.query(0)
}

// confirm plays Elector.confirm.
func (p *proc) confirm(failed int) {
	started := p.Now()
	interval := p.interval
	p.request(interval, func() func() {
		index := p.w.consul.prefixIndex("election/")
		return func() {
			wait := interval - (p.Now() - started)
			p.post(func(c *core, now time.Duration) []action {
				if c.confirm(now, started, index) {
					wait = retryRead
				}
				return nil
			})
			p.later(wait, func() { p.confirm(0) })
		}
	}, func() {
		wait := interval - (p.Now() - started)
		p.later(max(min(wait, interval/4), p.w.span(interval/2), time.Millisecond), func() { p.confirm(failed + 1) })
	})
}

// beat plays presence: heartbeats to the local agent, which counts the TTL.
func (p *proc) beat() {
	w := p.w
	p.later(p.cfg.TTL*4/15, p.beat)
	w.after(w.span(w.lag), func() {
		if p.dead || w.chance(w.loss) {
			return
		}
		if !w.consul.checks[p.check] {
			w.consul.check(p.check, true)
		}
		p.wakeCheck(w.now)
	})
}

// wakeCheck lets the check fail if no heartbeat follows this one.
func (p *proc) wakeCheck(at time.Duration) {
	p.lastBeat = at
	p.w.after(p.cfg.TTL+p.w.span(p.w.lag), func() {
		if p.lastBeat == at {
			p.w.logf("consul: check of %s is critical", p.name)
			p.w.consul.check(p.check, false)
			p.w.remember()
		}
	})
}

// keeping plays a keeper.
type keeping struct {
	p           *proc
	mode        Mode
	id          string
	gen         int
	busy, poked bool
}

func (p *proc) keep(m Mode) {
	if p.keeping[m] == nil {
		p.keeping[m] = &keeping{p: p, mode: m}
		p.keeping[m].create(0)
	}
	p.interval = min(p.interval, p.cfg.timing(m).confirm)
}

func (k *keeping) create(try int) {
	p, w := k.p, k.p.w
	s := modelSession{name: p.cfg.Service + "/" + p.id, delay: p.cfg.timing(k.mode).delay, check: p.check}
	if k.mode == Strict {
		s.check, s.ttl = "", p.cfg.SessionTTL
	}
	again := func() { p.later(min(2*time.Second, 10*time.Millisecond<<min(try, 8)), func() { k.create(try + 1) }) }
	p.request(callTimeout, func() func() {
		id, err := w.consul.newSession(s)
		if err != nil {
			return again
		}
		w.expire(id)
		return func() {
			w.logf("%s has session %s", p.name, id)
			k.id = id
			p.post(func(c *core, _ time.Duration) []action { c.sessionUp(k.mode, id); return nil })
			k.look(k.every())
		}
	}, again)
}

// expire ends a session with a TTL, at the earliest when Consul may.
func (w *world) expire(id string) {
	s := w.consul.sessions[id]
	if s.ttl == 0 {
		return
	}
	w.after(s.renewed+s.ttl-w.now+w.span(s.ttl/10), func() {
		if s, ok := w.consul.sessions[id]; ok && s.renewed+s.ttl <= w.now {
			w.logf("consul: session %s expires", id)
			w.consul.destroy(id)
			w.remember()
		}
		w.expire(id)
	})
}

func (k *keeping) every() time.Duration {
	if k.mode == Strict {
		return k.p.cfg.SessionTTL / 4
	}
	return 2 * k.p.cfg.TTL
}

// poke makes it look now, or once more after the look that is under way.
func (k *keeping) poke() {
	if k.busy {
		k.poked = true
	} else if k.id != "" {
		k.look(0)
	}
}

// look renews the session after a time.
func (k *keeping) look(after time.Duration) {
	k.gen++
	gen, p, w, id := k.gen, k.p, k.p.w, k.id
	if k.poked {
		k.poked, after = false, 0
	}
	p.later(after, func() {
		if gen != k.gen {
			return
		}
		k.busy = true
		p.request(callTimeout, func() func() {
			alive := w.consul.renew(id)
			return func() {
				k.busy = false
				if alive {
					k.look(k.every())
					return
				}
				w.logf("%s finds its session %s gone", p.name, id)
				k.id = ""
				p.post(func(c *core, _ time.Duration) []action { return c.sessionDown(k.mode) })
				k.create(0)
			}
		}, func() {
			k.busy = false
			k.look(min(k.every(), 100*time.Millisecond+w.span(900*time.Millisecond)))
		})
	})
}
