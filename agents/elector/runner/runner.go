package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/processes"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// Defaults of Config.
const (
	DefaultGrace       = 400 * time.Millisecond
	DefaultKillTimeout = 10 * time.Second
)

const (
	// poll is how often it is looked whether the end of trust has moved.
	poll = 50 * time.Millisecond
	// guardPatience is how long after the end of trust the guard may take to clear up.
	guardPatience = 2 * time.Second
	// restartPause is the time between the end of a command and the next candidature
	// with Restart, so that a command that fails at once is no busy loop.
	restartPause = time.Second
	// signOff bounds what is done in Consul at the end.
	signOff = 5 * time.Second
)

// Exit codes of a command that could not be run, as a shell has them.
const (
	exitNotRunnable = 126
	exitNotFound    = 127
	exitFailed      = 1
)

// Config says what is run, and when.
type Config struct {
	// Elector says who takes part, and where.
	Elector election.Config
	// Election is the one that has to be led.
	Election string
	// Mode and Priority are those of election.Options.
	Mode     election.Mode
	Priority int
	// Grace is the time from SIGTERM to SIGKILL when the trust in the leadership runs
	// out; the trust ends with it. At most half of the trust window. Default 400 ms.
	Grace time.Duration
	// KillTimeout is the time from SIGTERM to SIGKILL when ctx ends, as long as the
	// leadership lasts. Default 10 s.
	KillTimeout time.Duration
	// Restart goes on when the command has ended by itself or could not be run: others
	// may lead first, then this process takes part again. After a loss of leadership
	// it does so in any case.
	Restart bool
	// Command is the program and its arguments. Its environment is that of this
	// process with ELECTION, ELECTION_TOKEN and ELECTION_TERM.
	Command []string
	// Signals are passed on to the command. It may be nil.
	Signals <-chan os.Signal
	// Stdin, Stdout and Stderr are those of the command. Default: of this process.
	Stdin, Stdout, Stderr *os.File
	// Guard is the command line that leads to the function Guard. Default: this
	// program with GuardCommand.
	Guard []string
	// Logger is told what happens. Default: none.
	Logger hclog.Logger
}

// withDefaults fills in what is left out. The error is an *election.FieldError.
func (c Config) withDefaults() (Config, error) {
	if c.Grace == 0 {
		c.Grace = DefaultGrace
	}
	if c.KillTimeout == 0 {
		c.KillTimeout = DefaultKillTimeout
	}
	if c.Stdin == nil {
		c.Stdin = os.Stdin
	}
	if c.Stdout == nil {
		c.Stdout = os.Stdout
	}
	if c.Stderr == nil {
		c.Stderr = os.Stderr
	}
	if c.Guard == nil {
		// The file may be replaced while this process runs.
		c.Guard = []string{"/proc/self/exe", GuardCommand}
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	bad := func(field, problem string) error { return &election.FieldError{Field: field, Problem: problem} }
	switch {
	case len(c.Command) == 0 || c.Command[0] == "":
		return c, bad("command", "is missing: give it after --")
	case c.Grace < 2*killMargin:
		return c, bad("grace", fmt.Sprintf("%s is less than %s", c.Grace, 2*killMargin))
	case c.KillTimeout < 0:
		return c, bad("kill_timeout", "is negative")
	}
	return c, nil
}

// Run takes part in the election and runs the command whenever this process leads. It
// returns when the command has ended by itself, with its exit code (128 and the number
// of the signal if one ended it), unless Restart is set; or when ctx ends, with 0 if
// the command had not been running or obeyed the SIGTERM. The lock is released then.
// An error comes with a code other than 0: nothing could be run.
//
// This process becomes the reaper of its orphaned descendants, and must have no
// children besides: if a guard dies, everything below this process is killed.
func Run(ctx context.Context, cfg Config) (exitCode int, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return exitFailed, err
	}
	if err := processes.BecomeReaper(); err != nil {
		return exitFailed, err
	}
	e, err := election.New(cfg.Elector)
	if err != nil {
		return exitFailed, err
	}
	defer func() {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), signOff)
		defer cancel()
		if cerr := e.Close(bound); cerr != nil {
			// The command is gone, so this is about how fast others take over.
			cfg.Logger.Warn("sign off at consul", "error", cerr)
		}
	}()
	for {
		code, err := runOnce(ctx, cfg, e)
		var bad *election.FieldError // stays as it is
		if ctx.Err() != nil || !cfg.Restart || errors.As(err, &bad) {
			return code, err
		}
		cfg.Logger.Info("taking part again", "pause", restartPause, "code", code, "error", err)
		if !pause(ctx, restartPause) {
			return 0, nil
		}
	}
}

// errOverdue says that the guard has ended the command because trust had run out, and
// this process did not know that yet: it was not running.
var errOverdue = errors.New("trust had run out")

// runOnce takes part until the command has ended by itself, or ctx ends.
func runOnce(ctx context.Context, cfg Config, e *election.Elector) (code int, err error) {
	c, err := e.Join(cfg.Election, election.Options{Mode: cfg.Mode, Priority: cfg.Priority, Grace: cfg.Grace})
	if err != nil {
		return exitFailed, err
	}
	code, err = takePart(ctx, cfg, func(ctx context.Context, work work) error {
		return c.Run(ctx, func(term context.Context, l *election.Leadership) error { return work(term, l) })
	})
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), signOff)
	defer cancel()
	if lerr := c.Leave(leave); lerr != nil {
		cfg.Logger.Warn("leave the election", "error", lerr)
	}
	if err != nil && code == 0 {
		code = exitFailed
	}
	return code, err
}

// work is done in one term.
type work func(term context.Context, l leadership) error

// takePart runs the command in each term that run, which is election.Candidate's, calls
// it for, until the command has ended by itself, or ctx ends.
func takePart(ctx context.Context, cfg Config, run func(context.Context, work) error) (code int, err error) {
	all, end := context.WithCancel(ctx)
	defer end()
	running := false // when ctx ended
	ended := false   // the command, by itself
	for again := true; again; {
		err = run(all, func(term context.Context, l leadership) error {
			if ended {
				return nil
			}
			running = true
			var err error
			code, ended, err = runTerm(term, cfg, l)
			running = ctx.Err() != nil
			if ended {
				// Also if leadership was lost meanwhile, which would have another
				// term begin.
				end()
			}
			return err
		})
		again = errors.Is(err, errOverdue) // others have led meanwhile
	}
	switch {
	case ended:
		err = nil // there is a code; to resign is tried again by whoever leaves
	case ctx.Err() != nil && errors.Is(err, context.Cause(ctx)):
		err = nil // that is why we are here
		if !running {
			code = 0 // what there is comes from a term that was lost
		}
	}
	return code, err
}

// runTerm runs the command during one term. It returns when everything of it is gone.
// Ended says that nobody had asked it to end.
func runTerm(term context.Context, cfg Config, l leadership) (code int, ended bool, err error) {
	env := append(os.Environ(),
		"ELECTION="+l.Election(),
		"ELECTION_TOKEN="+strconv.FormatUint(l.Token(), 10),
		"ELECTION_TERM="+strconv.FormatUint(l.Term(), 10),
	)
	c, err := startCommand(cfg.Guard, cfg.Command, env, files{cfg.Stdin, cfg.Stdout, cfg.Stderr})
	if err != nil {
		return exitNotRunnable, false, err
	}
	guide(term, cfg, l, c)
	res := c.result
	switch {
	case c.late:
		return 0, false, nil
	case c.process() == 0:
		return res.Code, false, fmt.Errorf("run %q: %w", cfg.Command[0], c.err)
	case c.err != nil:
		cfg.Logger.Error("the command's guard failed; the command is gone", "error", c.err)
	}
	cfg.Logger.Info("command has ended", "code", res.Code, "asked", res.Asked, "killed", res.Killed)
	switch {
	case res.Asked && term.Err() == nil:
		return 0, false, errOverdue
	case res.Asked && res.Signal == syscall.SIGTERM:
		return 0, false, nil // it did as it was told
	}
	return res.Code, !res.Asked && c.err == nil, nil
}

// leadership is what a command is told of it, and its trust.
type leadership interface {
	trust
	Election() string
	Token() uint64
	Term() uint64
}

// trust is what has to be known of a leadership.
type trust interface {
	Until() time.Duration // less the grace
	Done() <-chan struct{}
	Err() error
}

// guide tells the guard what the leadership allows, until the command is gone. Term
// ends with the leadership, or before when the command has to end first.
func guide(term context.Context, cfg Config, l trust, c *command) {
	trouble := func(err error) {
		if err != nil {
			cfg.Logger.Error("guard", "error", err)
		}
	}
	for len(cfg.Signals) > 0 {
		<-cfg.Signals // for nobody that was there
	}
	until := l.Until()
	trouble(c.tell(order{Soft: until, Hard: until + cfg.Grace}))
	asked, lost := term.Done(), l.Done()
	all, guard := false, false // killed by us
	timer := time.NewTimer(poll)
	defer timer.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-asked: // by ctx, or by the loss
			asked = nil
			if l.Err() == nil {
				trouble(c.tell(order{Stop: election.Now() + cfg.KillTimeout}))
			}
		case <-lost:
			lost = nil
			cfg.Logger.Warn("leadership is over: the command is ended", "reason", l.Err())
			trouble(c.tell(order{Stop: election.Now() + cfg.Grace}))
		case sig := <-cfg.Signals:
			if s, ok := sig.(syscall.Signal); ok {
				trouble(c.tell(order{Signal: s}))
			}
		case <-timer.C:
			if u := l.Until(); u > until && l.Err() == nil {
				until = u
				trouble(c.tell(order{Soft: until, Hard: until + cfg.Grace}))
			}
		}
		// The guard should have done this before. If it has not it is frozen.
		left := until + cfg.Grace - election.Now()
		if left <= killMargin/2 && !all {
			all = true
			trouble(c.killAll())
		}
		if left <= -guardPatience && !guard {
			guard = true
			trouble(c.killGuard())
		}
		if next := left - killMargin/2; !all && next < poll {
			timer.Reset(next)
		} else {
			timer.Reset(poll)
		}
	}
}

// pause waits, or returns false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
