//go:build !linux

package election

import "time"

// bootClock is Go's monotonic time where there is no CLOCK_BOOTTIME: it may stand still
// while the machine is suspended.
type bootClock struct{}

var processStart = time.Now()

func (bootClock) Now() time.Duration { return time.Since(processStart) }
