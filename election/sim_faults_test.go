package election

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// fault is something that happens to the world at a time. Times are in percent of a
// unit, which is the window of the mode.
type fault struct {
	kind faultKind
	at   int // since the fault before
	proc int
	n    int // which election, or whatever else the fault needs
	long int
}

type faultKind int

const (
	faultFreeze faultKind = iota
	faultCut
	faultOutage
	faultLossy
	faultHang
	faultSlow
	faultStale
	faultDestroy
	faultSlowApp
	faultLease
	faultResign
	faultHandOver
	faultLeave
	faultJoin
	faultKill
	faultStart
	faultTwin
	faultDelete
	faultPut
	faultRelease
	faultReap
	faultCandidateKey
	faultSnapshot
	faultRestore
	faultKinds
)

func (k faultKind) String() string {
	return [...]string{
		"freeze", "cut", "outage", "lossy", "hang", "slow", "stale", "destroy session", "slow app", "lease", "resign", "hand over",
		"leave", "join", "kill", "start", "twin", "delete", "put", "release", "reap", "candidate key", "snapshot", "restore",
	}[k]
}

func (f fault) String() string {
	return fmt.Sprintf("{%s at +%d proc %d n %d long %d}", f.kind, f.at, f.proc, f.n, f.long)
}

// apply makes the fault happen.
func (w *world) apply(f fault, unit time.Duration, cfg func(id string) Config, rate func() float64) {
	var alive []*proc
	for _, p := range w.procs {
		if !p.dead {
			alive = append(alive, p)
		}
	}
	d := unit * time.Duration(f.long) / 100
	name := w.elections[f.n%len(w.elections)]
	key := keys{"election"}.leader(name)
	w.logf("fault %v", f)
	switch f.kind {
	case faultOutage:
		w.outage(d)
		return
	case faultLossy:
		w.loss = 5 + f.n%40
		w.after(d, func() { w.loss = 0 })
		return
	case faultHang:
		w.hang = 10 + f.n%70
		w.after(d, func() { w.hang = 0 })
		return
	case faultSlow:
		w.lag = time.Duration(f.n%10+1) * unit / 15
		w.after(d, func() { w.lag = 5 * time.Millisecond })
		return
	case faultStale:
		w.stale = 20
		w.after(d, func() { w.stale = 0 })
		return
	case faultDelete:
		w.consul.deleteKey(key)
	case faultPut:
		w.consul.put(key, [][]byte{nil, []byte("{"), []byte(`{"state":"vacant"}`)}[f.long%3])
	case faultRelease:
		w.consul.release(key, nil)
	case faultReap:
		w.consul.reap()
	case faultSnapshot:
		s := w.consul.snapshot()
		w.snap = &s
	case faultRestore:
		if w.snap != nil {
			w.restores = append(w.restores, w.now)
			w.consul.restore(*w.snap)
			for _, id := range slices.Sorted(maps.Keys(w.consul.sessions)) {
				w.expire(id)
			}
			w.after(w.span(3*time.Second), func() { w.consul.orphans() })
		}
		return
	}
	w.remember()
	if f.kind == faultStart && len(alive) < 4 {
		id := fmt.Sprintf("c%d", len(w.procs))
		w.launch(w.start(id, cfg(id), rate()))
		return
	}
	if len(alive) == 0 {
		return
	}
	p := alive[f.proc%len(alive)]
	switch f.kind {
	case faultFreeze:
		p.freeze(d)
	case faultCut:
		p.cut = true
		p.watching.fail()
		w.after(d, func() { p.cut = false })
	case faultDestroy:
		if k := p.keeping[p.cfg.Mode]; k != nil && k.id != "" {
			w.consul.destroy(k.id)
		}
	case faultSlowApp:
		p.slow = d
		w.after(2*unit, func() { p.slow = 0 })
	case faultLease:
		p.hung = true
		w.after(d, func() { p.hung = false })
	case faultKill:
		if len(w.procs) < 12 {
			p.kill()
			if f.n%2 == 0 { // a supervisor
				w.after(d, func() { w.launch(w.start(p.id, cfg(p.id), rate())) })
			}
		}
	case faultTwin:
		if len(alive) < 4 && len(w.procs) < 12 {
			w.launch(w.start(p.id, cfg(p.id), rate()))
		}
	case faultCandidateKey:
		if f.n%2 == 0 {
			w.consul.deleteKey(p.core.keys.candidate(p.id))
		} else {
			w.consul.release(p.core.keys.candidate(p.id), nil)
		}
	case faultResign, faultHandOver, faultLeave, faultJoin:
		to := alive[f.long%len(alive)].id
		p.in(func() { p.ask(f.kind, name, to) })
	}
}

// ask is the application calling.
func (p *proc) ask(kind faultKind, name, to string) {
	p.post(func(c *core, now time.Duration) []action {
		q := c.byName[name]
		switch {
		case q == nil && kind == faultJoin:
			p.join(now, name)
		case q == nil:
		case kind == faultResign:
			return c.resign(q, ErrResigned, "", func(error) {})
		case kind == faultHandOver && to != p.id && c.alive(to, name):
			return c.resign(q, ErrHandedOver, to, func(error) {})
		case kind == faultLeave:
			return c.leave(q, ErrLeft)
		}
		return nil
	})
}

// launch joins all elections.
func (w *world) launch(p *proc) {
	for _, name := range w.elections {
		p.in(func() { p.ask(faultJoin, name, "") })
	}
	p.renew()
}

func (p *proc) join(now time.Duration, name string) {
	opts := p.w.optionsOf(p)
	opts, err := opts.withDefaults(p.cfg)
	if err != nil {
		panic(err)
	}
	if _, err = p.core.join(now, name, opts, p.cfg.timing(opts.Mode)); err != nil {
		panic(err)
	}
	p.keep(opts.Mode)
}

// renew renews the leases of the application.
func (p *proc) renew() {
	p.later(100*time.Millisecond, p.renew)
	if p.hung {
		return
	}
	for _, c := range p.core.campaigns {
		_ = p.core.renew(p.Now(), c) // not leading is fine
	}
}

// heal ends all faults.
func (w *world) heal() {
	w.loss, w.hang, w.stale, w.lag, w.down = 0, 0, 0, 5*time.Millisecond, false
	for _, p := range w.procs {
		p.cut, p.hung, p.slow = false, false, 0
	}
	for _, p := range w.procs {
		if !p.dead && !p.frozen {
			for _, name := range w.elections {
				p.ask(faultJoin, name, "")
			}
		}
	}
}

// settled says what is not as it has to be when there have been no faults for long.
func (w *world) settled() string {
	for _, name := range w.elections {
		leaders, candidates := 0, 0
		k := w.consul.kv[keys{"election"}.leader(name)]
		for _, p := range w.procs {
			if p.dead {
				continue
			}
			c := p.core.byName[name]
			if c == nil {
				continue
			}
			candidates++
			if c.phase != candidate && c.phase != leading {
				return fmt.Sprintf("election %s: %s is %s", name, p.name, c.phase)
			}
			if c.lead != nil && c.lead.Valid() {
				leaders++
				if k.session != p.core.sessions[c.opts.Mode] || k.modify != c.token {
					return fmt.Sprintf("election %s: %s leads with token %d, and the key is at %d", name, p.name, c.token, k.modify)
				}
			}
		}
		if candidates > 0 && leaders != 1 {
			_, lives := w.consul.sessions[k.session]
			return fmt.Sprintf("election %s has %d leaders; key: session %q lives %v, %s", name, leaders, k.session, lives, k.value)
		}
	}
	return ""
}
