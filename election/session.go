package election

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
)

// keeper keeps the one session of a mode: it makes it, looks whether it still lives, and
// makes another if not.
type keeper struct {
	e    *Elector
	mode Mode
	poke chan struct{} // look now
}

func newKeeper(e *Elector, m Mode) *keeper {
	return &keeper{e: e, mode: m, poke: make(chan struct{}, 1)}
}

// verify makes it look now.
func (k *keeper) verify() {
	select {
	case k.poke <- struct{}{}:
	default: // it will
	}
}

// every is the time between two looks. In mode strict a look renews the session's TTL.
// A renewal is no Raft write.
func (k *keeper) every() time.Duration {
	if k.mode == Strict {
		return k.e.cfg.SessionTTL / 4
	}
	return 2 * k.e.cfg.TTL
}

// run keeps the session until the context ends. It does not destroy it: Close does, when
// the locks have been released.
func (k *keeper) run(ctx context.Context) {
	source := "session " + string(k.mode)
	for try := 0; ; try++ {
		if k.mode != Strict {
			select {
			case <-k.e.presence.up():
			case <-ctx.Done():
				return
			}
		}
		id, err := k.create(ctx)
		if ctx.Err() != nil {
			return // Close; what was made just now ends with the check or its TTL
		}
		if err != nil {
			// A check that was just registered is not in the catalog yet.
			if try > 3 {
				k.e.trouble(source, err)
			}
			if !pause(ctx, backoff(try, 10*time.Millisecond, 2*time.Second)) {
				return
			}
			continue
		}
		k.e.trouble(source, nil)
		try = 0
		k.e.sessions.Add(1)
		k.e.post(ctx, func(c *core, _ time.Duration) []action { c.sessionUp(k.mode, id); return nil })
		lost := k.watch(ctx, id, source)
		if !lost {
			return
		}
		k.e.post(ctx, func(c *core, _ time.Duration) []action { return c.sessionDown(k.mode) })
	}
}

// slot lets one call about sessions through at a time. While Consul has no leader they
// hang, and those of all modes together would take the connections that heartbeats need.
func (e *Elector) slot(ctx context.Context) (release func(), err error) {
	select {
	case e.sessionSlot <- struct{}{}:
		return func() { <-e.sessionSlot }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// create makes the session. Its lock-delay keeps everybody from a lock whose holder may
// still trust to have it, also those who do not know our rules.
func (k *keeper) create(ctx context.Context) (string, error) {
	release, err := k.e.slot(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	cfg := k.e.cfg
	entry := &api.SessionEntry{
		Name:      cfg.Service + "/" + cfg.ID,
		LockDelay: cfg.timing(k.mode).delay,
		Behavior:  api.SessionBehaviorRelease,
	}
	opts := (&api.WriteOptions{}).WithContext(ctx)
	var id string
	if k.mode == Strict {
		entry.TTL = cfg.SessionTTL.String()
		id, _, err = k.e.consul.vital.Session().CreateNoChecks(entry, opts)
	} else {
		// The agent adds serfHealth, the check of the node itself.
		entry.ServiceChecks = []api.ServiceCheck{{ID: k.e.presence.checkID}}
		id, _, err = k.e.consul.vital.Session().Create(entry, opts)
	}
	if k.e.consul.note(ctx, err) != nil {
		return "", fmt.Errorf("make a session: %w", err)
	}
	return id, nil
}

// watch returns true when the session is gone, and false when the context has ended.
func (k *keeper) watch(ctx context.Context, id, source string) bool {
	failed := 0
	for {
		wait := k.every()
		if failed > 0 {
			wait = min(wait, backoff(failed, 100*time.Millisecond, time.Second))
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-k.poke:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return false
		}
		alive, err := k.renew(ctx, id)
		if ctx.Err() != nil {
			return false
		}
		k.e.trouble(source, err)
		switch {
		case err != nil:
			failed++
		case !alive:
			return true
		default:
			failed = 0
		}
	}
}

// renew says whether the session lives, and gives it its whole TTL again.
func (k *keeper) renew(ctx context.Context, id string) (bool, error) {
	release, err := k.e.slot(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	entry, _, err := k.e.consul.vital.Session().Renew(id, (&api.WriteOptions{}).WithContext(ctx))
	if k.e.consul.note(ctx, err) != nil {
		return false, fmt.Errorf("renew session: %w", err)
	}
	return entry != nil, nil
}
