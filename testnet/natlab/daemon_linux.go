package natlab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/node/proc"
	"github.com/shoalnet/shoal/testnet"
)

// Daemon is `shoal node` on a machine.
type Daemon struct {
	Home string
	Peer string // its peer ID, once it listens

	on     *Machine
	binary string
	args   []string
	cmd    *exec.Cmd
	exited chan struct{}

	mu     sync.Mutex
	events []testnet.Event
	news   chan struct{} // closed and replaced at each event
}

// environment is this process's, without what configures shoal: the nodes are
// load to each other, and compute with the built-in engine.
func environment() []string {
	env := []string{"SHOAL_PAUSE_LOAD=0", "SHOAL_LEND_ON_BATTERY=true", "SHOAL_ENGINE=ggml"}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "SHOAL_") {
			env = append(env, kv)
		}
	}
	return env
}

// group makes a process the leader of a group, which is killed if this process
// or the machine's thread ends.
func group() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// Start starts a daemon. Its log is HOME/log. The context bounds the wait until
// it listens.
func (m *Machine) Start(ctx context.Context, binary, home string, args ...string) (*Daemon, error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(home, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d := &Daemon{Home: home, on: m, binary: binary, args: args, exited: make(chan struct{}), news: make(chan struct{})}
	d.cmd = exec.Command(binary, append([]string{"node", "--home", home, "--no-mdns", "--json-events", "--threads", "1"}, args...)...)
	d.cmd.Env, d.cmd.Stderr, d.cmd.SysProcAttr = append(environment(), m.env...), log, group()
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := m.space.start(d.cmd); err != nil {
		return nil, err
	}
	go func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var e testnet.Event
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				d.note(e)
			}
		}
		_ = d.cmd.Wait()
		proc.KillGroup(d.cmd.Process.Pid)
		close(d.exited)
	}()
	e, err := d.Await(ctx, func(e testnet.Event) bool { return e.Event == testnet.EventListening })
	if err != nil {
		d.Kill()
		return nil, err
	}
	d.Peer = e.Peer
	return d, nil
}

func (d *Daemon) note(e testnet.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, e)
	close(d.news)
	d.news = make(chan struct{})
}

// Await returns the first event that ok accepts. Errors are the context's and
// the end of the daemon, with the last of its log.
func (d *Daemon) Await(ctx context.Context, ok func(testnet.Event) bool) (testnet.Event, error) {
	for seen := 0; ; {
		d.mu.Lock()
		fresh, news := d.events[seen:], d.news
		d.mu.Unlock()
		for _, e := range fresh {
			if ok(e) {
				return e, nil
			}
		}
		seen += len(fresh)
		select {
		case <-news:
		case <-d.exited:
			log, _ := os.ReadFile(filepath.Join(d.Home, "log"))
			return testnet.Event{}, fmt.Errorf("%s has ended: %s", d.Home, bytes.TrimSpace(log[max(0, len(log)-2000):]))
		case <-ctx.Done():
			return testnet.Event{}, fmt.Errorf("waiting for %s: %w", d.Home, ctx.Err())
		}
	}
}

// Loaded waits until the daemon has loaded its span. It serves it once it has
// passed a token through the whole model, which needs the other homes.
func (d *Daemon) Loaded(ctx context.Context) error {
	_, err := d.Await(ctx, func(e testnet.Event) bool { return e.Event == "loaded" || e.Event == testnet.EventServing })
	return err
}

// Signal sends a signal to the daemon and its engine.
func (d *Daemon) Signal(sig syscall.Signal) error { return syscall.Kill(-d.cmd.Process.Pid, sig) }

// Kill ends the daemon at once, and waits for that.
func (d *Daemon) Kill() {
	proc.KillGroup(d.cmd.Process.Pid)
	<-d.exited
}

// Shoal runs a command on the daemon's machine and home, and returns what it
// printed. The error has what it said on standard error.
func (d *Daemon) Shoal(ctx context.Context, command string, args ...string) ([]byte, error) {
	cmd := exec.Command(d.binary, slices.Concat(strings.Fields(command), []string{"--home", d.Home}, args)...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = append(environment(), d.on.env...), &out, &errs, group()
	cmd.WaitDelay = time.Second
	if err := d.on.space.start(cmd); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { proc.KillGroup(cmd.Process.Pid) })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return out.Bytes(), errors.Join(context.Cause(ctx), fmt.Errorf("shoal %s: %w: %s", command, err, bytes.TrimSpace(errs.Bytes())))
	}
	return out.Bytes(), nil
}
