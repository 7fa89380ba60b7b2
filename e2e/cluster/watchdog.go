package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// watchdogEnv makes a program that imports this package a watchdog; it holds
// the path of the state file.
const watchdogEnv = "NOMAD_PATTERNS_WATCHDOG"

// stoppedCleanly is what the owner says before it lets the watchdog go.
const stoppedCleanly = 's'

// The watchdog is the owner's own program, started again, as Nomad does with
// its executor: so nothing has to be installed, in tests neither.
func init() {
	if path := os.Getenv(watchdogEnv); path != "" {
		os.Exit(watch(path, os.NewFile(3, "owner")))
	}
}

// watchdog is the process that sweeps a cluster when its owner dies.
type watchdog struct {
	cmd   *exec.Cmd
	owner *os.File // the end of this file is the end of the owner
}

// startWatchdog starts the watchdog and notes it in the state file.
func startWatchdog(l layout, state *stateFile) (*watchdog, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start watchdog: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(l.logDir(), "watchdog.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start watchdog: %w", err), r.Close(), w.Close())
	}
	// The program's file may be deleted while it runs ("go test" does so at
	// the end); this name works all the same.
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir = "/"
	cmd.Env = []string{watchdogEnv + "=" + state.path}
	for _, key := range []string{"PATH", "HOME", "XDG_CACHE_HOME", "DOCKER_HOST", "TMPDIR"} {
		if v, ok := os.LookupEnv(key); ok {
			cmd.Env = append(cmd.Env, key+"="+v)
		}
	}
	cmd.ExtraFiles = []*os.File{r}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is for the owner
	err = errors.Join(cmd.Start(), r.Close(), log.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start watchdog: %w", err), w.Close())
	}
	d := &watchdog{cmd: cmd, owner: w}
	id, err := identOf(cmd.Process.Pid)
	if err == nil {
		err = state.update(func(r *record) { r.Watchdog = id })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start watchdog: %w", err), d.release())
	}
	return d, nil
}

// release tells the watchdog that there is nothing to do and waits for it.
func (d *watchdog) release() error {
	_, err := d.owner.Write([]byte{stoppedCleanly})
	if errors.Is(err, syscall.EPIPE) {
		err = nil // somebody killed it
	}
	err = errors.Join(err, d.owner.Close())
	if werr := d.cmd.Wait(); werr != nil {
		var exit *exec.ExitError
		if !errors.As(werr, &exit) {
			err = errors.Join(err, werr)
		}
	}
	if err != nil {
		return fmt.Errorf("release watchdog: %w", err)
	}
	return nil
}

// watch is the main function of the watchdog: it waits for the end of the
// owner and returns the exit code.
func watch(path string, owner *os.File) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGPIPE)
	b, err := io.ReadAll(owner)
	if err == nil && len(b) > 0 && b[0] == stoppedCleanly {
		return 0
	}
	s, err := loadState(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Docker may still be busy with a container that was being made: what
	// appears after the first sweep is for the next one.
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 2*sweepTimeout)
		err = s.sweepAndForget(ctx)
		cancel()
		if err == nil {
			return 0
		}
		fmt.Fprintln(os.Stderr, time.Now().Format(time.RFC3339), err)
	}
	return 1
}
