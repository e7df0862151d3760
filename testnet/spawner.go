package testnet

import (
	"os/exec"
	"runtime"
	"sync"
)

// spawner starts all processes from one system thread that it keeps: for children that
// die with their parent, Linux takes the thread that started them as the parent, and Go
// ends threads at any time.
type spawner struct {
	jobs chan func()
	stop sync.Once
}

func newSpawner() *spawner {
	s := &spawner{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = ownGroup()
	done := make(chan error)
	s.jobs <- func() { done <- cmd.Start() }
	return <-done
}

// close ends the thread, and with it all remaining processes.
func (s *spawner) close() { s.stop.Do(func() { close(s.jobs) }) }
