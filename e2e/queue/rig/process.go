package rig

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// closePatience bounds the end of a process that was asked to end.
const closePatience = 15 * time.Second

// process is a program that can be killed, frozen and started again.
type process struct {
	name   string
	logDir string
	start  func() *exec.Cmd
	// line gets each line of the standard output. nil: there is none.
	line func(process string, line []byte)

	mu   sync.Mutex
	cmd  *exec.Cmd
	in   io.Closer // the standard input, whose end asks the process to end
	done chan struct{}
	err  error // valid after done
}

// Start starts it.
func (p *process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil && !closed(p.done) {
		return fmt.Errorf("start %s: it runs", p.name)
	}
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	cmd := p.start()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the test
	cmd.Stderr = log
	var out io.Reader
	in, err := cmd.StdinPipe()
	if err == nil && p.line != nil {
		out, err = cmd.StdoutPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err = errors.Join(err, log.Close()); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	done := make(chan struct{})
	p.cmd, p.in, p.done = cmd, in, done
	go func() {
		defer close(done)
		if out != nil {
			name := fmt.Sprintf("%s#%d", p.name, cmd.Process.Pid)
			lines := bufio.NewScanner(out)
			lines.Buffer(nil, 4<<20)
			for lines.Scan() {
				p.line(name, lines.Bytes())
			}
		}
		p.err = cmd.Wait()
	}()
	return nil
}

// Says is whether its standard error holds a text.
func (p *process) Says(text string) bool {
	b, err := os.ReadFile(p.log())
	return err == nil && bytes.Contains(b, []byte(text))
}

func (p *process) log() string { return filepath.Join(p.logDir, p.name+".log") }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// PID of the process, 0 while none runs.
func (p *process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || closed(p.done) {
		return 0
	}
	return p.cmd.Process.Pid
}

// Kill ends it with SIGKILL and returns when it is gone and its output was read.
func (p *process) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Pause stops it with SIGSTOP, and Resume lets it go on.
func (p *process) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (p *process) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *process) signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || closed(p.done) {
		return fmt.Errorf("send %s to %s: it does not run", s, p.name)
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to %s: %w", s, p.name, err)
	}
	return nil
}

// Close asks it to end, and waits until it has.
func (p *process) Close() error {
	if p.PID() == 0 {
		return nil
	}
	err := errors.Join(p.Resume(), p.in.Close())
	if p.line == nil {
		err = errors.Join(err, p.signal(syscall.SIGTERM))
	}
	if err != nil && p.PID() == 0 { // it has ended meanwhile
		err = nil
	}
	return errors.Join(err, p.Wait())
}

// Wait waits for its end, kills it if that does not come, and returns its error.
func (p *process) Wait() error {
	var err error
	timer := time.NewTimer(closePatience)
	defer timer.Stop()
	select {
	case <-p.done:
		if p.err != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", p.name, p.err))
		}
	case <-timer.C:
		err = errors.Join(err, fmt.Errorf("%s does not end within %s", p.name, closePatience), p.Kill())
	}
	return err
}

// Build compiles a program of this checkout into a directory and returns its path.
func Build(ctx context.Context, dir, pkg string) (string, error) {
	path := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/nomad-patterns/nomad-patterns/"+pkg)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", pkg, err, out)
	}
	return path, nil
}
