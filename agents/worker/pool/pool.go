package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/attempt"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/files"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// claimWait is how long a claim is held at the broker, and claimSlack how much longer
	// its answer may take.
	claimWait  = 30 * time.Second
	claimSlack = 15 * time.Second
	// emptyPause is the longest pause after a claim that came back early with nothing, and
	// finishedPause that after one which said that the queue is finished.
	emptyPause    = 500 * time.Millisecond
	finishedPause = 5 * time.Second
	// statusTimeout bounds a question about the queue.
	statusTimeout = 10 * time.Second
	// firstPause and lastPause bound the pause after a failure, which doubles.
	firstPause = 500 * time.Millisecond
	lastPause  = 30 * time.Second
	// lastWords is how long giving items back may take.
	lastWords = 5 * time.Second
)

// Broker is what is needed of a queue.Client.
type Broker interface {
	Claim(ctx context.Context, queue string, req queue.ClaimRequest) (queue.ClaimResponse, error)
	Ack(ctx context.Context, queue string, acks []queue.Ack) ([]queue.AckResult, error)
	Extend(ctx context.Context, queue string, e queue.Extend) (queue.Extended, error)
	Item(ctx context.Context, queue string, id queue.ID) (queue.ItemStatus, error)
	Status(ctx context.Context, queue string) (queue.Overview, error)
}

// Config of a Pool.
type Config struct {
	Broker Broker
	Files  *files.Files
	Way    attempt.Way
	Queue  string
	Stage  string // empty: the first
	Worker string // name of this worker
	// Slots is how many items are done at a time. Default 1.
	Slots int
	// NoOutput: no output is no failure.
	NoOutput bool
	// IdleExit ends the pool when it has had nothing to do for so long. Zero: never.
	IdleExit time.Duration
	// UntilFinished ends the pool when the queue is sealed and nothing is left in it.
	UntilFinished bool
	// DrainTimeout is how long items may still take when the pool has to end. Grace is
	// how long it may take to end those that have not been done.
	DrainTimeout, Grace time.Duration
	// SweepEvery is how often outputs of dead workers are looked for. Default 30 s;
	// negative: never.
	SweepEvery time.Duration
	Logger     hclog.Logger
}

// Pool does items.
type Pool struct {
	cfg     Config
	log     hclog.Logger
	leases  *leases
	metrics *metrics
	slots   chan struct{} // has an element for each free one
	running sync.WaitGroup
	busy    atomic.Int64 // items in slots
	// returned counts items that were given back at the end.
	returned atomic.Int64

	stopOnce sync.Once
	stopping chan struct{} // closed when nothing more is claimed
	finished chan struct{} // closed when Run has returned

	items   context.Context // ends when items have to be given back
	endWork context.CancelCauseFunc
	talk    context.Context // ends when nothing more can be said to the broker
	endTalk context.CancelFunc

	first, last time.Duration // pauses

	mu    sync.Mutex
	down  error     // why places do not work
	lost  error     // why the broker cannot be asked
	since time.Time // nothing has been done since
	stage string    // the first of the queue; empty: it is not known yet
}

// New makes a pool. Run has to be called.
func New(cfg Config) *Pool {
	if cfg.Slots == 0 {
		cfg.Slots = 1
	}
	if cfg.SweepEvery == 0 {
		cfg.SweepEvery = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	p := &Pool{
		cfg: cfg, log: cfg.Logger, slots: make(chan struct{}, cfg.Slots),
		stopping: make(chan struct{}), finished: make(chan struct{}), first: firstPause, last: lastPause,
		lost: errors.New("no broker has answered yet"),
	}
	p.metrics = newMetrics(p)
	p.leases = newLeases(cfg.Broker, cfg.Queue, cfg.Worker, cfg.Logger)
	for range cfg.Slots {
		p.slots <- struct{}{}
	}
	p.items, p.endWork = context.WithCancelCause(context.Background())
	p.talk, p.endTalk = context.WithCancel(context.Background())
	return p
}

// Run does items until Drain is called or ctx ends, or there is nothing more to do as far
// as the configuration ends it then. It returns when no item is in a slot any more. The
// error is why no items can be done at all.
func (p *Pool) Run(ctx context.Context) error {
	defer close(p.finished)
	var helpers sync.WaitGroup
	claims, stop := context.WithCancel(ctx)
	helping, stopHelpers := context.WithCancel(context.Background())
	defer helpers.Wait()
	defer stopHelpers()
	defer stop()
	helpers.Go(func() {
		select {
		case <-p.stopping:
			stop()
		case <-claims.Done():
		}
	})
	helpers.Go(func() { p.leases.run(helping) })
	if p.cfg.SweepEvery > 0 {
		helpers.Go(func() { p.sweeper(helping) })
	}
	err := p.claim(claims)
	p.running.Wait()
	p.endTalk()
	p.endWork(nil)
	return err
}

// Stop ends the claiming.
func (p *Pool) Stop() { p.stopOnce.Do(func() { close(p.stopping) }) }

// Drain ends the claiming, and returns when no item is in a slot any more: after the drain
// timeout, or when ctx ends, they are given back. The error says that some had to be.
func (p *Pool) Drain(ctx context.Context) error {
	p.Stop()
	p.log.Info("draining: nothing more is claimed", "items", p.busy.Load(), "timeout", p.cfg.DrainTimeout)
	over := time.NewTimer(p.cfg.DrainTimeout)
	defer over.Stop()
	select {
	case <-p.finished:
		return nil
	case <-over.C:
	case <-ctx.Done():
	}
	p.log.Warn("items are given back: the drain timeout is over", "items", p.busy.Load())
	p.endWork(attempt.ErrDrained)
	talk := time.NewTimer(p.cfg.Grace + lastWords)
	defer talk.Stop()
	select {
	case <-p.finished:
	case <-talk.C:
		p.endTalk()
		<-p.finished
	}
	if n := p.returned.Load(); n > 0 {
		return fmt.Errorf("%d items were not done within %s and were given back", n, p.cfg.DrainTimeout)
	}
	return nil
}

// Ready says why no items are done.
func (p *Pool) Ready() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.lost, p.down)
}

// claim claims and starts items until ctx ends.
func (p *Pool) claim(ctx context.Context) error {
	pause := p.first
	p.touch()
	for {
		free := p.free(ctx)
		if free == 0 {
			return nil
		}
		if !p.works(ctx) {
			p.give(free)
			return nil
		}
		wait := claimWait
		if p.cfg.IdleExit > 0 {
			wait = min(wait, p.cfg.IdleExit) // the last item may end meanwhile
		}
		if left, idle := p.idleLeft(); idle {
			if left <= 0 {
				p.log.Info("nothing to do: ending", "idle", p.cfg.IdleExit)
				p.give(free)
				return nil
			}
			wait = min(wait, left)
		}
		start := time.Now()
		res, err := p.ask(ctx, free, wait)
		p.note(err)
		res.Items = res.Items[:min(free, len(res.Items))] // it is not asked for more
		if err == nil {
			p.start(res)
		}
		p.give(free - len(res.Items))
		var no *queue.RefusedError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &no) && no.Status >= 400 && no.Status < 500 && no.Status != 404 && no.Status != 429 && no.Status != 421:
			return fmt.Errorf("claim items: %w", err) // it will not get better
		case err != nil:
			p.log.Warn("claim items", "error", err, "pause", pause)
			if !sleep(ctx, pause/2+rand.N(pause/2+1)) { //nolint:gosec // spreads load, and hides nothing
				return nil
			}
			pause = min(2*pause, p.last)
			continue
		case res.Finished && len(res.Items) == 0 && p.cfg.UntilFinished:
			p.log.Info("the queue is finished: ending")
			return nil
		}
		pause = p.first
		longest := emptyPause
		if res.Finished {
			longest = finishedPause
		}
		if early := wait - time.Since(start); len(res.Items) == 0 && early > 0 && !sleep(ctx, min(early, longest)) {
			return nil
		}
	}
}

// free waits for free slots and takes them all.
func (p *Pool) free(ctx context.Context) int {
	select {
	case <-p.slots:
	case <-ctx.Done():
		return 0
	}
	select {
	case <-p.stopping: // it may be known before ctx is ended by it
		p.give(1)
		return 0
	default:
	}
	if ctx.Err() != nil {
		p.give(1)
		return 0
	}
	n := 1
	for n < queue.MaxBatch {
		select {
		case <-p.slots:
			n++
		default:
			return n
		}
	}
	return n
}

// give gives slots back.
func (p *Pool) give(n int) {
	for range n {
		p.slots <- struct{}{}
	}
}

func (p *Pool) ask(ctx context.Context, most int, wait time.Duration) (queue.ClaimResponse, error) {
	if err := p.cfg.Way.Ready(ctx); err != nil {
		return queue.ClaimResponse{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait+claimSlack)
	defer cancel()
	return p.cfg.Broker.Claim(ctx, p.cfg.Queue, queue.ClaimRequest{
		Worker: p.cfg.Worker, Stage: p.cfg.Stage, Max: most, Wait: queue.Duration(wait),
	})
}

// start puts items into slots.
func (p *Pool) start(res queue.ClaimResponse) {
	for _, c := range res.Items {
		p.busy.Add(1)
		it := p.leases.add(p.items, c, time.Duration(res.Lease))
		p.running.Go(func() {
			p.do(it, time.Duration(res.MaxRuntime))
			p.touch()
			p.busy.Add(-1)
			p.give(1)
		})
	}
}

// note remembers whether a broker answers.
func (p *Pool) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = err
}

// firstStage is the name of the queue's first stage.
func (p *Pool) firstStage() string {
	p.mu.Lock()
	name := p.stage
	p.mu.Unlock()
	if name != "" {
		return name
	}
	ctx, cancel := context.WithTimeout(p.talk, statusTimeout)
	defer cancel()
	st, err := p.cfg.Broker.Status(ctx, p.cfg.Queue)
	if err != nil || len(st.Config.Stages) == 0 {
		return queue.DefaultStage
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stage = st.Config.Stages[0].Name
	return p.stage
}

// touch says that there was something to do.
func (p *Pool) touch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since = time.Now()
}

// idleLeft is how long the pool may still be idle, if it is and has an end.
func (p *Pool) idleLeft() (time.Duration, bool) {
	if p.cfg.IdleExit == 0 || p.busy.Load() > 0 {
		return 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cfg.IdleExit - time.Since(p.since), true
}

// fault says that a place does not work: nothing is claimed until it does.
func (p *Pool) fault(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = err
}

// works waits until the places work. It returns false when ctx has ended.
func (p *Pool) works(ctx context.Context) bool {
	for pause := p.first; ; pause = min(2*pause, p.last) {
		p.mu.Lock()
		err := p.down
		p.mu.Unlock()
		if err == nil {
			return true
		}
		p.log.Warn("nothing is claimed: files cannot be read or written", "error", err, "pause", pause)
		if !sleep(ctx, pause) {
			return false
		}
		if err := p.cfg.Files.Probe(ctx); err == nil {
			p.fault(nil)
			p.log.Info("files can be read and written again")
		} else {
			p.fault(err)
		}
	}
}

// sleep waits, or returns false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
