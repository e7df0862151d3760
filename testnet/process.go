package testnet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/node/proc"
)

// process is one run of a node's binary.
type process struct {
	name   string
	pid    int
	cmd    *exec.Cmd
	exited chan struct{} // closed after the process and its events ended
	err    error         // why it ended, set before exited is closed
}

// startProcess runs a binary whose standard output is events and whose standard
// error goes to the log file, and to tee if that is not nil.
func startProcess(sp *Spawner, name string, argv, env []string, logPath string, tee io.Writer, each func(Event)) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		log.Close()
		return nil, err
	}
	p := &process{name: name, exited: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = env
	p.cmd.Stdout = in
	p.cmd.Stderr = log // a file: no copying, and an engine that outlives its node blocks nobody
	if tee != nil {
		p.cmd.Stderr = io.MultiWriter(log, &prefixer{w: tee, prefix: name + " "})
		p.cmd.WaitDelay = 2 * time.Second
	}
	err = sp.Start(p.cmd)
	in.Close()
	if err != nil {
		out.Close()
		log.Close()
		return nil, err
	}
	p.pid = p.cmd.Process.Pid
	events := make(chan error, 1)
	go func() {
		err := readEvents(out, each)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			_ = p.cmd.Process.Kill() // it is not what it should be
			events <- err
		}
		close(events)
	}()
	go func() {
		defer close(p.exited)
		defer log.Close()
		defer out.Close()
		p.err = p.cmd.Wait()
		proc.KillGroup(p.pid) // what the leader left of its group
		if errors.Is(p.err, exec.ErrWaitDelay) {
			p.err = nil
		}
		// The last events come before the exit; who still holds the pipe has
		// no more to say.
		_ = out.SetReadDeadline(time.Now().Add(time.Second))
		if bad := <-events; bad != nil {
			p.err = fmt.Errorf("said something that is %w", bad)
		}
	}()
	return p, nil
}

// signal reaches the leader alone: children of a node are its own business.
func (p *process) signal(sig syscall.Signal) error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s has ended", p.name)
	default:
		return p.cmd.Process.Signal(sig)
	}
}

// stop asks the process to end, insists after grace, and waits.
func (p *process) stop(grace time.Duration) {
	_ = p.signal(syscall.SIGTERM)
	_ = p.signal(proc.Continue) // a stopped process would not hear it
	select {
	case <-p.exited:
		return
	case <-time.After(grace):
	}
	p.kill()
}

// kill ends the process and its group at once.
func (p *process) kill() {
	select {
	case <-p.exited:
		return
	default:
	}
	proc.KillGroup(p.pid)
	<-p.exited
}

// tail is the end of a log, for an error message.
func tail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 8 << 10
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, most))
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// lockedWriter lets many nodes share a log.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// prefixer writes whole lines with a prefix.
type prefixer struct {
	w      io.Writer
	prefix string
	line   []byte
}

func (p *prefixer) Write(b []byte) (int, error) {
	p.line = append(p.line, b...)
	for {
		i := bytes.IndexByte(p.line, '\n')
		if i < 0 {
			return len(b), nil
		}
		if _, err := p.w.Write(append([]byte(p.prefix), p.line[:i+1]...)); err != nil {
			return 0, err
		}
		p.line = p.line[i+1:]
	}
}
