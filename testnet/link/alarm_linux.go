package link

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// fdAlarm is a timerfd that the runtime's poller waits for: precise to tens of
// microseconds, where a runtime timer may be a millisecond late.
type fdAlarm struct {
	mu   sync.Mutex
	fd   int // -1 once closed; f owns it
	f    *os.File
	tick [8]byte
}

func newAlarm() alarm {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil { // out of descriptors, or a filtered system call
		return newGoAlarm()
	}
	return &fdAlarm{fd: fd, f: os.NewFile(uintptr(fd), "timerfd")}
}

func (a *fdAlarm) set(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fd < 0 {
		return
	}
	d := max(time.Until(at), 1) // zero would disarm it
	_ = unix.TimerfdSettime(a.fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil)
}

func (a *fdAlarm) wait() { _, _ = a.f.Read(a.tick[:]) }

func (a *fdAlarm) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fd = -1
	a.f.Close()
}
