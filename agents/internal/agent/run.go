package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// drainGrace is how much longer than its context a drain is waited for.
const drainGrace = time.Second

// Run serves until SIGTERM, SIGINT or the end of the context, then drains, ends the
// requests under way and returns. A second signal ends the drain at once. The error
// is ErrNotDrained or what ended the serving. Run is called once; afterwards signals end
// the process again.
func (a *Agent) Run(ctx context.Context) error {
	return a.run(ctx, a.signals)
}

func (a *Agent) run(ctx context.Context, signals <-chan os.Signal) error {
	defer signal.Stop(a.signals)
	defer a.background.Wait()
	requests, endRequests := context.WithCancel(context.Background())
	defer endRequests()
	api := a.server(a.handler())
	api.BaseContext = func(net.Listener) context.Context { return requests }
	failed := make(chan error, 2)
	a.background.Go(func() {
		if a.access.tls.Load() != nil {
			api.TLSConfig = a.access.serverTLS()
			failed <- api.ServeTLS(a.listener, "", "")
			return
		}
		failed <- api.Serve(a.listener)
	})
	management := a.server(managementHandler())
	if a.management != nil {
		a.background.Go(func() { failed <- management.Serve(a.management) })
	}
	reloads := make(chan struct{}, 1)
	reloading, endReloads := context.WithCancel(ctx)
	a.background.Go(func() { a.reloader(reloading, reloads) })
	a.log.Info("listening", "address", a.Addr(), "version", a.opts.Version)

	err := a.wait(ctx, signals, reloads, failed)
	endReloads()
	if drainErr := a.awaitDrain(signals); err == nil {
		err = drainErr
	} else if drainErr != nil {
		a.log.Error("drain failed", "error", drainErr)
	}

	// Streams end with their requests' context; what is left gets a moment.
	endRequests()
	last, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if api.Shutdown(last) != nil {
		_ = api.Close() // requests are cut; there is no one to tell
	}
	_ = management.Close()
	a.log.Info("ended")
	return err
}

// wait returns when it is time to drain. The error is why, unless the agent was told to.
func (a *Agent) wait(ctx context.Context, signals <-chan os.Signal, reloads chan<- struct{}, failed <-chan error) error {
	for {
		select {
		case <-ctx.Done():
			a.log.Info("draining", "cause", context.Cause(ctx))
			return nil
		case err := <-failed:
			a.log.Error("draining", "cause", err)
			return fmt.Errorf("serve HTTP: %w", err)
		case s := <-signals:
			if s != syscall.SIGHUP {
				a.log.Info("draining", "cause", s.String())
				return nil
			}
			select {
			case reloads <- struct{}{}:
			default: // one is about to begin, and will see what this one would
			}
		}
	}
}

// reloader reloads for each value until the context ends.
func (a *Agent) reloader(ctx context.Context, reloads <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-reloads:
		}
		err := a.access.load(&a.opts.Listen)
		if err == nil && a.opts.Reload != nil {
			err = a.opts.Reload(ctx)
		}
		if err != nil {
			a.log.Error("reload failed; what could not be reloaded stays as it was", "error", err)
			continue
		}
		a.log.Info("reloaded")
	}
}

// beginDrain starts the drain if it has not been started.
func (a *Agent) beginDrain() {
	a.drainOnce.Do(func() {
		close(a.draining)
		// Not one of the goroutines that Run waits for: a drain that does not heed
		// its context must not keep the process.
		go func() {
			ctx, cancel := context.WithTimeout(a.drainCtx, a.opts.DrainTimeout)
			defer cancel()
			if a.opts.Drain != nil {
				a.drainErr = a.opts.Drain(ctx)
			}
			close(a.drained)
		}()
	})
}

// awaitDrain drains and returns when that is done, its time is over, or a signal
// says that it is to be cut short.
func (a *Agent) awaitDrain(signals <-chan os.Signal) error {
	a.beginDrain()
	defer a.drainCut()
	over := time.NewTimer(a.opts.DrainTimeout + drainGrace)
	defer over.Stop()
	for {
		select {
		case <-a.drained:
			if a.drainErr != nil {
				return fmt.Errorf("%w: %w", ErrNotDrained, a.drainErr)
			}
			return nil
		case <-over.C:
			return fmt.Errorf("%w within %s", ErrNotDrained, a.opts.DrainTimeout)
		case s := <-signals:
			if s != syscall.SIGHUP {
				return fmt.Errorf("%w: %s for the second time", ErrNotDrained, s)
			}
		}
	}
}
