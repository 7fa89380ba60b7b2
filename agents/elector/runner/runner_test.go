package runner

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/election"
)

// What can never succeed is not tried again.
func TestRestart_BadConfig(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for field, cfg := range map[string]Config{
		"election": {Election: "-x"},
		"grace":    {Election: "x", Grace: patience},
		"priority": {Election: "x", Priority: 101},
	} {
		t.Run(field, func(t *testing.T) {
			cfg.Elector = election.Config{Consul: &api.Config{Address: "127.0.0.1:1"}, ID: "me"}
			cfg.Command, cfg.Restart = []string{"true"}, true
			code, err := Run(ctx, cfg)
			var bad *election.FieldError
			must.True(t, errors.As(err, &bad), must.Sprint(err))
			must.Eq(t, field, bad.Field)
			must.Eq(t, exitFailed, code)
		})
	}
}

// terms is election.Candidate's Run: it leads until the term is lost, and then again, a
// few times.
func terms(t *testing.T, count *int, lose func(*fakeTrust)) func(context.Context, work) error {
	return func(ctx context.Context, work work) error {
		for *count++; *count < 4; *count++ {
			f := newTrust(soft, grace)
			t.Cleanup(func() { f.lose(nil) })
			go lose(f)
			term, cancel := context.WithCancel(f.ctx)
			stop := context.AfterFunc(ctx, cancel)
			err := work(term, f)
			stop()
			cancel()
			if f.Err() == nil {
				return errors.Join(err, context.Cause(ctx))
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		return errors.New("another term")
	}
}

// part is what takePart needs of a configuration.
func part(t *testing.T, script string) (cfg Config, read func() string) {
	t.Helper()
	out, read := output(t)
	cfg, err := Config{
		Command: []string{"/bin/sh", "-c", script}, Grace: grace, Stdout: out, Guard: []string{os.Args[0], GuardCommand},
	}.withDefaults()
	must.NoError(t, err)
	return cfg, read
}

// The code of a lost term is not that of the run.
func TestLostTerm(t *testing.T) {
	cfg, read := part(t, `trap '' TERM; echo ready; sleep 600`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	count := 0
	run := terms(t, &count, func(f *fakeTrust) {
		eventually(t, "it is ready", func() bool { return strings.Contains(read(), "ready") })
		f.lose(election.ErrLockLost)
	})
	code, err := takePart(ctx, cfg, func(all context.Context, work work) error {
		return run(all, func(term context.Context, l leadership) error {
			if err := work(term, l); err != nil {
				return err
			}
			cancel() // before the next term
			return nil
		})
	})
	must.NoError(t, err)
	must.Eq(t, 0, code)
	must.Eq(t, 1, count)
}

// A command that ended by itself is not run again, although the leadership was lost
// before anybody saw it.
func TestEndedInLostTerm(t *testing.T) {
	cfg, read := part(t, "echo once; exit 3")
	count := 0
	run := terms(t, &count, func(*fakeTrust) {})
	code, err := takePart(t.Context(), cfg, func(all context.Context, work work) error {
		return run(all, func(term context.Context, l leadership) error {
			err := work(term, l)
			l.(*fakeTrust).lose(election.ErrTrustExpired)
			return err
		})
	})
	must.NoError(t, err)
	must.Eq(t, 3, code)
	must.Eq(t, 1, count)
	must.Eq(t, "once\n", read())
}
