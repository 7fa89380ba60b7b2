package election

import "time"

// clock is where the time of trust comes from. It never goes back, and goes on while
// the process, and if possible the machine, is asleep.
type clock interface {
	Now() time.Duration
}

// Now is the clock of trust: the time since some moment that is the same for all
// processes of a machine, counting the time that the machine was suspended. Setting
// the wall clock does not move it.
func Now() time.Duration { return bootClock{}.Now() }
