package runner

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm is a timer on CLOCK_BOOTTIME: Go's own timers stand still while the machine is
// suspended, and would ring too late afterwards. It lives as long as the process.
type alarm struct {
	rings chan struct{} // of size 1
	fd    int
	file  *os.File
	at    time.Duration // when it will ring
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	a := &alarm{rings: make(chan struct{}, 1), fd: fd, file: os.NewFile(uintptr(fd), "timer")}
	go func() {
		var count [8]byte
		for {
			if _, err := a.file.Read(count[:]); err != nil {
				panic("runner: read timer: " + err.Error()) // better dead than late
			}
			select {
			case a.rings <- struct{}{}:
			default: // it rings already
			}
		}
	}()
	return a, nil
}

// set lets it ring at a time on the clock of election.Now, or never if that is 0.
func (a *alarm) set(at time.Duration) error {
	if at == a.at {
		return nil
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(at))}
	if err := unix.TimerfdSettime(a.fd, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		return fmt.Errorf("set the timer: %w", err)
	}
	a.at = at
	return nil
}
