package cli

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/nomad-patterns/nomad-patterns/agents/elector/config"
	"github.com/nomad-patterns/nomad-patterns/agents/elector/runner"
	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
)

func newRun(p *agent.Program) *agent.Command {
	c := p.Command("run [flags] -election <name> -- <command> [argument…]", "Run a command only while leading", `
Takes part in an election by itself, without an agent, and runs a command for as long
as this process leads. The command finds $ELECTION, $ELECTION_TOKEN (the fencing
token) and $ELECTION_TERM in its environment.

When leadership is lost or can be trusted no longer, the command gets SIGTERM, and
what is left of it and its descendants SIGKILL before anybody else can lead, even if
this process is frozen or killed. SIGTERM and SIGINT end the command, within the kill
timeout, and then this process; SIGHUP, SIGUSR1 and SIGUSR2 are passed on.

When the command ends by itself, leadership is given away. When leadership is lost, this
process takes part again, and runs the command anew when it leads.

Exit codes: that of the command; 128 and the number of the signal that ended it; 0 when
told to end while the command was not running, or obeyed SIGTERM; 1 bad configuration or
failed; 126, 127 the command cannot be run.`)
	get := config.MemberSource(c.Flags)
	election := c.Flags.String("election", "", "`name` of the election")
	priority := c.Flags.Int("priority", 0, "`number` from -100 to 100, higher is preferred")
	grace := c.Flags.Duration("grace", runner.DefaultGrace, "`time` from SIGTERM to SIGKILL when leadership is lost, part of the trust window and at most half of it (default 400ms)")
	killTimeout := c.Flags.Duration("kill-timeout", runner.DefaultKillTimeout, "`time` from SIGTERM to SIGKILL when told to end (default 10s)")
	restart := c.Flags.Bool("restart", false, "take part again after a second also when the command has ended by itself, whatever its exit code, or could not be run, instead of passing its code on")
	c.Do = func(args []string) error {
		m, err := get()
		if err != nil {
			return err
		}
		if *election == "" {
			return agent.UsageErrorf("-election is missing")
		}
		if *grace == 0 || *killTimeout == 0 {
			return agent.UsageErrorf("-grace and -kill-timeout must not be 0") // for runner.Run it is the default
		}
		ctx, stop := agent.UntilSignal()
		defer stop()
		passed := make(chan os.Signal, 8)
		signal.Notify(passed, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
		defer signal.Stop(passed)
		log := agent.NewLogger("elector", m.Log.Level, m.Log.JSON, p.Err)
		m.Election.Logger = log
		code, err := runner.Run(ctx, runner.Config{
			Elector: m.Election, Election: *election, Mode: m.Election.Mode, Priority: *priority,
			Grace: *grace, KillTimeout: *killTimeout, Restart: *restart,
			Command: args, Signals: passed, Logger: log,
		})
		if err != nil {
			p.Fail(m.Explain(err))
		}
		return &agent.ExitError{Code: code}
	}
	return c
}
