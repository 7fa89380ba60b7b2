package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/election"
)

// outcome of a step of a command.
type outcome int

const (
	done   outcome = iota // it has been done; its answer waits for the commit
	noRoom                // it goes on after a flush
	parked                // there is nothing to do for it yet
)

// command is something that a shard is asked for.
type command struct {
	ctx context.Context
	// step is called by the loop until it is done.
	step func(s *shardState) outcome
	// stage whose items it waits for; -1: it waits for the queue to be finished.
	stage  int
	result chan error // of the commit; buffered
}

// maxQueued bounds the commands that wait for the loop. Whoever comes then is told that
// the broker is busy.
const maxQueued = 1024

// maxParked bounds the claims that are held.
const maxParked = 10_000

// term is the time for which a broker leads a shard.
type term struct {
	lead     *election.Leadership
	client   *api.Client
	base     string // of the keys
	log      hclog.Logger
	commands chan *command
	config   chan Config
	clock    func() int64 // milliseconds
	over     chan struct{}
	onCommit func(took time.Duration, keys int, err error) // nil: nobody is told

	s         *shardState
	headIndex uint64

	waiting []*command // done, and not yet sent
	sent    []*command // their writes are on the way
	blocked []*command // without room
	parked  map[int][]*command
	nparked int
}

func newTerm(lead *election.Leadership, client *api.Client, base string, log hclog.Logger) *term {
	// Leases are about durations, and times such as not_before about the wall clock.
	// One clock serves both: it begins with the wall clock and is not set afterwards.
	start := time.Now()
	return &term{
		lead: lead, client: client, base: base, log: log,
		commands: make(chan *command, maxQueued), config: make(chan Config, 1),
		clock:  func() int64 { return start.UnixMilli() + time.Since(start).Milliseconds() },
		over:   make(chan struct{}),
		parked: map[int][]*command{},
	}
}

// errReload says that what was read cannot be what is stored any more.
var errReload = errors.New("the outcome of a write is not known")

// run leads the shard until the term is over. ready is called when it can be used, and
// stuck when it cannot, until ready is called again.
func (t *term) run(ctx context.Context, queue string, number int, cfg Config, ready func(), stuck func(error)) error {
	defer func() {
		close(t.over)
		t.fail(nil)
	}()
	for try := 0; ; try++ {
		t.s = newShard(queue, number, cfg, rand.Float64)
		t.s.now = t.clock()
		err := t.load(ctx)
		if err == nil {
			ready()
			began := time.Now()
			err = t.loop(ctx)
			cfg = t.s.cfg
			if time.Since(began) > time.Minute {
				try = 0
			}
		}
		if ctx.Err() != nil || errors.Is(err, election.ErrNotLeader) {
			return context.Cause(ctx)
		}
		t.log.Warn("reading the shard anew", "reason", err)
		stuck(err)
		t.fail(err)
		select {
		case <-time.After(min(2*time.Second, 10*time.Millisecond<<min(try, 10))):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fail answers everybody who waits.
func (t *term) fail(err error) {
	why := ErrNotLeader
	if err != nil {
		why = fmt.Errorf("%w: %w", ErrNotLeader, err)
	}
	for _, list := range [][]*command{t.sent, t.waiting, t.blocked} {
		for _, c := range list {
			c.result <- why
		}
	}
	for _, list := range t.parked {
		for _, c := range list {
			c.result <- why
		}
	}
	t.sent, t.waiting, t.blocked, t.nparked = nil, nil, nil, 0
	clear(t.parked)
	for {
		select {
		case c := <-t.commands:
			c.result <- why
		default:
			return
		}
	}
}

// commitDone is the outcome of a commit.
type commitDone struct {
	index uint64 // of the head
	err   error
}

// loop carries out commands and writes what they change: one transaction is on its way,
// while what comes meanwhile gathers for the next one.
func (t *term) loop(ctx context.Context) error {
	commits := make(chan commitDone, 1)
	inFlight := false
	defer func() {
		if inFlight {
			<-commits // its deadline is short
		}
	}()
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	for {
		t.s.now = t.clock()
		late := !t.s.tick()
		t.resume()
		t.serve()
		if !inFlight {
			if ops := t.s.flush(); ops != nil {
				inFlight = true
				t.sent, t.waiting = t.waiting, nil
				go func() { commits <- t.commit(ctx, ops) }()
				late = false // there is room again
				if len(t.blocked) > 0 {
					continue
				}
			} else {
				t.answer(&t.waiting)
				if len(t.blocked) > 0 {
					// There will never be more room than now.
					t.blocked[0].result <- ErrTooLarge
					t.blocked = t.blocked[1:]
					continue
				}
			}
		}
		commands := t.commands
		if len(t.blocked) > 0 {
			commands = nil
		}
		if at, due := t.s.wake(); due && !late {
			alarm.Reset(time.Duration(max(0, at-t.clock())) * time.Millisecond)
		} else {
			alarm.Stop()
		}
		select {
		case c := <-commands:
			t.s.now = t.clock()
			t.try(c)
			t.drain()
		case res := <-commits:
			inFlight = false
			if res.err != nil {
				return res.err
			}
			t.headIndex = res.index
			t.answer(&t.sent)
		case cfg := <-t.config:
			t.s.configure(cfg)
		case <-alarm.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// drain carries out what has come already.
func (t *term) drain() {
	for range maxQueued {
		if len(t.blocked) > 0 {
			return
		}
		select {
		case c := <-t.commands:
			t.try(c)
		default:
			return
		}
	}
}

// try carries out a command, as far as that can be done now.
func (t *term) try(c *command) {
	if c.ctx.Err() != nil {
		c.result <- context.Cause(c.ctx)
		return
	}
	switch c.step(t.s) {
	case done:
		t.waiting = append(t.waiting, c)
	case noRoom:
		t.blocked = append(t.blocked, c)
	case parked:
		if t.nparked == maxParked {
			c.result <- ErrBusy
			return
		}
		t.nparked++
		t.parked[c.stage] = append(t.parked[c.stage], c)
	}
}

// resume goes on with commands that had no room.
func (t *term) resume() {
	list := t.blocked
	t.blocked = nil
	for i, c := range list {
		if len(t.blocked) > 0 {
			t.blocked = append(t.blocked, list[i:]...)
			return
		}
		t.try(c)
	}
}

// serve gives what there is to those who wait for it, in the order in which they came.
func (t *term) serve() {
	for stage, list := range t.parked {
		var left []*command
		for i, c := range list {
			if stage >= 0 && t.s.stages[stage].nready == 0 && !t.s.finished() || stage < 0 && t.s.items() > 0 {
				left = append(left, list[i:]...)
				break
			}
			if c.ctx.Err() != nil {
				c.result <- context.Cause(c.ctx)
				continue
			}
			switch c.step(t.s) {
			case done:
				t.waiting = append(t.waiting, c)
				continue
			case noRoom:
				left = append(left, list[i:]...)
			case parked:
				left = append(left, c)
				if stage < 0 {
					continue // each waits for something else
				}
				left = append(left, list[i+1:]...) // there is nothing for those behind it
			}
			break
		}
		t.nparked -= len(list) - len(left)
		if len(left) == 0 {
			delete(t.parked, stage)
		} else {
			t.parked[stage] = left
		}
	}
}

// leave takes a command that is parked away. Otherwise it would be given items that
// nobody fetches.
func (t *term) leave(c *command) {
	gone := &command{ctx: context.Background(), result: make(chan error, 1), step: func(*shardState) outcome {
		list := t.parked[c.stage]
		if i := slices.Index(list, c); i >= 0 {
			t.parked[c.stage] = slices.Delete(list, i, i+1)
			t.nparked--
			c.result <- context.Cause(c.ctx)
		}
		return done
	}}
	select {
	case t.commands <- gone:
	case <-t.over:
	}
}

// do has a command carried out and waits until what it changed is stored. An error
// means that it is not known whether it was done, unless step itself says so.
func (t *term) do(ctx context.Context, stage int, step func(*shardState) outcome) error {
	c := &command{ctx: ctx, step: step, stage: stage, result: make(chan error, 1)}
	select {
	case t.commands <- c:
	case <-t.over:
		return ErrNotLeader
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
	}
	select {
	case err := <-c.result:
		return err
	case <-ctx.Done():
		t.leave(c)
	case <-t.over:
	}
	select {
	case err := <-c.result: // it was being carried out
		return err
	case <-t.over:
		return ErrNotLeader
	}
}

// answer tells that commands are done.
func (t *term) answer(list *[]*command) {
	for _, c := range *list {
		c.result <- nil
	}
	*list = nil
}

// commitTimeout bounds a transaction. What takes longer has an outcome that is not known,
// and the shard is read anew.
const commitTimeout = 5 * time.Second

// commit writes in one transaction, on the condition that this is still the leader and
// that nothing was written since this term's last write.
func (t *term) commit(ctx context.Context, ops []op) commitDone {
	fence := t.lead.Fence()
	txn := make(api.TxnOps, 0, len(fence)+len(ops))
	for _, f := range fence {
		txn = append(txn, &api.TxnOp{KV: f})
	}
	for i, o := range ops {
		k := &api.KVTxnOp{Verb: api.KVSet, Key: t.base + o.key, Value: o.value}
		switch {
		case i == 0:
			k.Verb, k.Index = api.KVCAS, t.headIndex
		case o.tree:
			k.Verb = api.KVDeleteTree
		case o.value == nil:
			k.Verb = api.KVDelete
		}
		txn = append(txn, &api.TxnOp{KV: k})
	}
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	began := time.Now()
	ok, resp, _, err := t.client.Txn().Txn(txn, (&api.QueryOptions{}).WithContext(ctx))
	done := t.committed(len(fence), ok, resp, err)
	if t.onCommit != nil {
		t.onCommit(time.Since(began), len(ops), done.err)
	}
	return done
}

// committed says what Consul's answer to a transaction means.
func (t *term) committed(fence int, ok bool, resp *api.TxnResponse, err error) commitDone {
	switch {
	case err != nil:
		return commitDone{err: fmt.Errorf("%w: %w", errReload, err)}
	case !ok && len(resp.Errors) > 0 && resp.Errors[0].OpIndex < fence:
		return commitDone{err: fmt.Errorf("%w: %s", election.ErrNotLeader, resp.Errors[0].What)}
	case !ok && len(resp.Errors) > 0:
		return commitDone{err: fmt.Errorf("%w: operation %d was refused: %s", errReload, resp.Errors[0].OpIndex, resp.Errors[0].What)}
	case !ok || len(resp.Results) <= fence || resp.Results[fence].KV == nil:
		return commitDone{err: fmt.Errorf("%w: consul's answer has no results", errReload)}
	}
	return commitDone{index: resp.Results[fence].KV.ModifyIndex}
}

// loadTimeout bounds a read of a part of a shard.
const loadTimeout = 10 * time.Second

// load reads the shard.
func (t *term) load(ctx context.Context) error {
	began := time.Now()
	opts := func() (*api.QueryOptions, context.CancelFunc) {
		ctx, cancel := context.WithTimeout(ctx, loadTimeout)
		return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx), cancel
	}
	o, cancel := opts()
	head, _, err := t.client.KV().Get(t.base+headKey, o)
	cancel()
	if err != nil {
		return fmt.Errorf("read head: %w", err)
	}
	t.headIndex = 0
	var value []byte
	if head != nil {
		t.headIndex, value = head.ModifyIndex, head.Value
	}
	l, err := t.s.load(value)
	if err != nil {
		return err
	}
	o, cancel = opts()
	folders, _, err := t.client.KV().Keys(t.base+"segment/", "/", o)
	cancel()
	if err != nil {
		return fmt.Errorf("list segments: %w", err)
	}
	slices.Sort(folders)
	folders = append(folders, t.base+"dead/", t.base+"recurring/")
	// Folder by folder, and the next ones while one is decoded.
	type read struct {
		pairs api.KVPairs
		err   error
	}
	const ahead = 4
	reads := make([]chan read, len(folders))
	begin := func(i int) {
		if i < len(folders) {
			reads[i] = make(chan read, 1)
			go func() {
				o, cancel := opts()
				defer cancel()
				pairs, _, err := t.client.KV().List(folders[i], o)
				reads[i] <- read{pairs, err}
			}()
		}
	}
	for i := range ahead {
		begin(i)
	}
	for i, folder := range folders {
		r := <-reads[i]
		begin(i + ahead)
		if r.err != nil {
			err = errors.Join(err, fmt.Errorf("read %s: %w", folder, r.err))
		}
		if err == nil {
			err = t.decode(l, r.pairs)
		}
	}
	if err == nil {
		t.log.Info("shard read", "items", t.s.items(), "segments", len(t.s.segs), "took", time.Since(began).Round(time.Millisecond))
	}
	return err
}

// decode gives a folder to the loader.
func (t *term) decode(l *loader, pairs api.KVPairs) error {
	for i := 0; i < len(pairs); i++ {
		p := pairs[i]
		key := strings.TrimPrefix(p.Key, t.base)
		folder, is := strings.CutSuffix(key, "/items")
		var err error
		switch {
		case is:
			var state []byte
			if i+1 < len(pairs) && pairs[i+1].Key == t.base+folder+"/state" {
				i++
				state = pairs[i].Value
			}
			err = l.segment(p.Value, state)
		case strings.HasPrefix(key, "segment/"):
			err = errors.New("a key that does not belong there")
		default:
			err = l.other(key, p.Value)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.Key, err)
		}
	}
	return nil
}
