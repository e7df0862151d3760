package testnet

import (
	"os/exec"
	"runtime"
	"sync"
)

// Spawner starts all processes from one system thread that it keeps: for children that
// die with their parent, Linux takes the thread that started them as the parent, and Go
// ends threads at any time. It is safe for concurrent use, until Close.
type Spawner struct {
	jobs chan func()
	stop sync.Once
}

// NewSpawner starts that thread.
func NewSpawner() *Spawner {
	s := &Spawner{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

// Start starts a process in a group of its own. Its error is that of cmd.Start.
func (s *Spawner) Start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = ownGroup()
	done := make(chan error)
	s.jobs <- func() { done <- cmd.Start() }
	return <-done
}

// Close ends the thread, and with it all remaining processes.
func (s *Spawner) Close() { s.stop.Do(func() { close(s.jobs) }) }
