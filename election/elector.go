package election

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
)

// Elector takes part in elections: one candidate in any number of them, with one
// session for each mode in use. Its methods may be called from any goroutine.
type Elector struct {
	cfg      Config
	log      hclog.Logger
	instance string
	clock    clock
	keys     keys
	consul   *consul
	presence *presence
	refresh  refresh

	interval atomic.Int64  // between consistent reads, in nanoseconds
	sooner   chan struct{} // the interval has become shorter: read now
	sessions atomic.Uint64 // made

	events chan event
	ctx    context.Context // of everything that runs; ended by Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// What keeps this process alive in Consul has a life of its own: Close ends it before
	// it takes everything out of Consul, so that nothing of it comes back.
	life        context.Context
	endLife     context.CancelFunc
	alive       sync.WaitGroup
	sessionSlot chan struct{}

	// Owned by the loop.
	core     *core
	queue    []action // transactions that wait
	inflight int
	keepers  map[Mode]*keeper
	members  map[string]*Candidate
	watchers map[*watcher]struct{}
	troubles map[string]string
	closing  bool
	empty    chan struct{} // closed when the last campaign is over after Close

	closeOnce sync.Once
	closeErr  error
}

// event is something that happened. The loop calls it with the time and carries out
// what it returns.
type event func(c *core, now time.Duration) []action

// New starts to take part, with no election yet. It needs no network: until Consul
// answers, nothing is led and Health says why. The error is a *FieldError.
func New(cfg Config) (*Elector, error) { return newElector(cfg, bootClock{}, nil) }

// newElector is New with the clock, and with the transport to Consul where tests have
// one of their own.
func newElector(cfg Config, clk clock, transport http.RoundTripper) (*Elector, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	edge, err := newConsul(cfg.Consul, transport)
	if err != nil {
		return nil, err
	}
	e := &Elector{
		cfg: cfg, log: cfg.Logger, instance: nonce()[:8], clock: clk, keys: keys{cfg.Prefix}, consul: edge,
		events: make(chan event), sooner: make(chan struct{}, 1), keepers: map[Mode]*keeper{}, members: map[string]*Candidate{},
		watchers: map[*watcher]struct{}{}, troubles: map[string]string{}, empty: make(chan struct{}),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.life, e.endLife = context.WithCancel(e.ctx)
	e.sessionSlot = make(chan struct{}, 1)
	e.interval.Store(int64(cfg.timing(cfg.Mode).confirm))
	e.presence = newPresence(e)
	self := registration{ID: cfg.ID, Address: cfg.Address, Meta: cfg.Meta, Instance: e.presence.serviceID, Elections: map[string]int{}}
	e.core = newCore(self, cfg.Mode, e.keys, e.clock, fencing{edge}, nonce)
	e.core.regVersion = 1
	e.keep(cfg.Mode)
	e.spawn(e.loop)
	e.alive.Go(func() { e.presence.run(e.life) })
	e.spawn(e.watch)
	e.spawn(e.confirm)
	return e, nil
}

// nonce is a random name.
func nonce() string {
	var b [8]byte
	// It never fails: the runtime ends the process instead.
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// spawn runs a function until Close.
func (e *Elector) spawn(run func(context.Context)) {
	e.wg.Go(func() { run(e.ctx) })
}

// keep makes sure that there is a keeper for a mode.
func (e *Elector) keep(m Mode) {
	if e.keepers[m] == nil {
		k := newKeeper(e, m)
		e.keepers[m] = k
		e.alive.Go(func() { k.run(e.life) })
	}
	if t := int64(e.cfg.timing(m).confirm); t < e.interval.Load() {
		e.interval.Store(t)
		select {
		case e.sooner <- struct{}{}:
		default: // it is told already
		}
	}
}

// ID returns the name of this candidate.
func (e *Elector) ID() string { return e.cfg.ID }

// ServiceID returns the ID of this process's service at the local Consul agent, which
// carries the check that it lives.
func (e *Elector) ServiceID() string { return e.presence.serviceID }

// post gives an event to the loop, unless the context or the Elector ends before.
func (e *Elector) post(ctx context.Context, ev event) bool {
	select {
	case e.events <- ev:
		return true
	case <-ctx.Done():
	case <-e.ctx.Done():
	}
	return false
}

// call is post that waits until the event has been dealt with.
func (e *Elector) call(ctx context.Context, ev event) bool {
	done := make(chan struct{})
	ok := e.post(ctx, func(c *core, now time.Duration) []action {
		defer close(done)
		return ev(c, now)
	})
	if !ok {
		return false
	}
	<-done // the loop has it, and never waits for anybody
	return true
}

// loop owns the core.
func (e *Elector) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var ev event
		select {
		case ev = <-e.events:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if ev != nil {
			e.carryOut(ev(e.core, e.clock.Now()))
		}
		// Again as long as there is something to do: a loss that nobody listens to is
		// delivered at once, and the lock can be released.
		acts, wake := e.core.step(e.clock.Now())
		for len(acts) > 0 {
			e.carryOut(acts)
			acts, wake = e.core.step(e.clock.Now())
		}
		e.transact()
		e.tell()
		if e.closing && len(e.core.campaigns) == 0 {
			select {
			case <-e.empty:
			default:
				close(e.empty)
			}
		}
		if wake == never {
			timer.Stop()
			continue
		}
		timer.Reset(max(0, wake-e.clock.Now()))
	}
}

// carryOut starts what the core wants done. It never waits.
func (e *Elector) carryOut(acts []action) {
	for _, a := range acts {
		switch a.kind {
		case doGained:
			e.log.Info("leading", "election", a.campaign.name, "token", a.lead.token, "term", a.lead.term)
			e.members[a.campaign.name].gained(a.lead)
		case doLost:
			e.log.Info("not leading any more", "election", a.campaign.name, "token", a.lead.token, "reason", a.err)
			e.members[a.campaign.name].lost(a.lead, a.err)
		case doDone:
			m := e.members[a.campaign.name]
			delete(e.members, a.campaign.name)
			m.over(a.err)
		case doRefresh:
			e.refresh.ask(a.forget)
		case doVerify:
			e.poke()
		case doDestroy:
			e.wg.Go(func() {
				release, err := e.slot(e.ctx)
				if err != nil {
					return
				}
				defer release()
				ctx, cancel := context.WithTimeout(e.ctx, callTimeout)
				defer cancel()
				e.trouble("old session", e.consul.destroy(ctx, a.session))
			})
		case doUnlock, doRegister:
			e.queue = slices.Insert(e.queue, 0, a) // somebody waits for it
		default:
			e.queue = append(e.queue, a)
		}
	}
}

// poke makes all keepers look whether their sessions still live.
func (e *Elector) poke() {
	for _, k := range e.keepers {
		k.verify()
	}
}

// verify is poke from outside of the loop.
func (e *Elector) verify() {
	e.post(e.ctx, func(*core, time.Duration) []action { e.poke(); return nil })
}

// transact starts transactions that wait, up to the bound.
func (e *Elector) transact() {
	for e.inflight < maxTxns && len(e.queue) > 0 {
		batch := e.gather()
		e.inflight++
		e.wg.Go(func() {
			all := make([][]*api.KVTxnOp, len(batch))
			for i, a := range batch {
				all[i] = a.ops()
			}
			outs := e.consul.batch(e.ctx, all)
			e.post(e.ctx, func(c *core, now time.Duration) []action {
				e.inflight--
				var acts []action
				for i, a := range batch {
					acts = append(acts, e.outcome(c, now, a, outs[i])...)
				}
				return acts
			})
		})
	}
}

// maxBatch is how many actions are one transaction at most. Consul takes 128 operations
// and 512 KiB, and an action has up to two and 8 KiB.
const maxBatch = 32

// gather takes what is done together from the queue: a registration is alone, for its
// size.
func (e *Elector) gather() []action {
	n := 1
	for n < min(len(e.queue), maxBatch) && e.queue[0].kind != doRegister && e.queue[n].kind != doRegister {
		n++
	}
	batch := slices.Clone(e.queue[:n])
	e.queue = slices.Delete(e.queue, 0, n)
	now := e.clock.Now()
	for _, a := range batch {
		if a.kind == doLock {
			// Trust counts from here and not from the decision: in a storm of
			// elections many locks wait for their turn.
			a.campaign.started = now
		}
	}
	return batch
}

// outcome gives the core what became of an action.
func (e *Elector) outcome(c *core, now time.Duration, a action, out outcome) []action {
	if out.err != nil {
		e.log.Debug("transaction", "kind", a.kind, "key", a.key, "error", out.err)
	}
	switch a.kind {
	case doCreate:
		c.createDone(now, a.campaign, out.err)
	case doLock:
		if out.err != nil {
			return c.lockDone(now, a.campaign, a.attempt, 0, 0, out.err)
		}
		return c.lockDone(now, a.campaign, a.attempt, out.last.ModifyIndex, out.last.LockIndex, nil)
	case doUnlock:
		c.unlockDone(now, a.campaign, out.err)
	case doRegister:
		e.troubled("registration", out.err)
		if out.err != nil {
			return c.registerDone(now, a.session, 0, out.err)
		}
		return c.registerDone(now, a.session, out.last.ModifyIndex, nil)
	}
	return nil
}

// trouble notes that something fails, or that it works again. A new trouble is logged
// once, not at each try.
func (e *Elector) trouble(source string, err error) {
	e.post(e.ctx, func(*core, time.Duration) []action {
		e.troubled(source, err)
		return nil
	})
}

// troubled is trouble within the loop.
func (e *Elector) troubled(source string, err error) {
	old := e.troubles[source]
	switch {
	case err == nil && old == "":
	case err == nil:
		delete(e.troubles, source)
		e.log.Info("works again", "what", source)
	default:
		e.troubles[source] = err.Error()
		if old == "" {
			e.log.Warn("trouble with consul", "what", source, "error", err)
		}
	}
}

// Close ends everything: leaderships are given up, which waits for OnLoss, the locks
// are released so that others lead at once, the sessions are destroyed and the service
// is deregistered. When the context ends before, all leaderships have ended all the
// same, and the sessions are destroyed without waiting for OnLoss. If Consul cannot be
// reached it gives the process up after its TTL. Close returns when nothing of the
// Elector runs any more, callbacks included; a second call returns what the first did.
func (e *Elector) Close(ctx context.Context) error {
	e.closeOnce.Do(func() { e.closeErr = e.close(ctx) })
	return e.closeErr
}

func (e *Elector) close(ctx context.Context) error {
	var errs []error
	e.call(e.ctx, func(c *core, _ time.Duration) []action {
		e.closing = true
		var acts []action
		for _, p := range c.campaigns {
			acts = append(acts, c.leave(p, ErrClosed)...)
		}
		return acts
	})
	select {
	case <-e.empty:
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("give up leaderships: %w", context.Cause(ctx)))
	}
	e.endLife()
	e.alive.Wait() // not long: their calls end with their context
	errs = append(errs, e.signOff(ctx)...)
	e.cancel()
	e.wg.Wait()
	for _, m := range e.members { // those that were not done in time
		m.over(ErrClosed)
	}
	e.consul.close()
	return errors.Join(errs...)
}

// signOff takes everything of this process out of Consul.
func (e *Elector) signOff(ctx context.Context) []error {
	timeout := callTimeout
	if ctx.Err() != nil {
		timeout = lastTimeout
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	var sessions []string
	var own string
	e.call(e.ctx, func(c *core, _ time.Duration) []action {
		for _, id := range c.sessions {
			sessions = append(sessions, id)
		}
		own = c.regSession
		c.regSent = true // no more writes of our key
		return nil
	})
	var errs []error
	if own != "" {
		if err := e.consul.remove(ctx, e.keys.candidate(e.cfg.ID), own); err != nil && !certain(err) {
			errs = append(errs, err)
		}
	}
	for _, id := range sessions {
		if err := e.consul.destroy(ctx, id); err != nil {
			errs = append(errs, err)
		}
	}
	if err := e.presence.deregister(ctx); err != nil {
		errs = append(errs, err)
	}
	return errs
}
