package bench

import (
	"time"

	"golang.org/x/sys/unix"
)

// processorTime is what a process has used so far, with threads that have ended; 0 if that
// cannot be read.
func processorTime(pid int) time.Duration {
	const scheduled = 2 // the kind of a process's clock that counts all of its time
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|scheduled, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
