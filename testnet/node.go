package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// logTail is how many lines of a failed node's log its error shows.
const logTail = 15

// bootstraps are the addresses of the nodes that listen, but for n's own: the
// first three, which is enough to find the others by.
func (t *Testnet) bootstraps(n *node) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var addrs []string
	known := 0
	for _, o := range t.nodes {
		if o != n && len(o.Addrs) > 0 && known < 3 {
			addrs = append(addrs, loopback(o.Addrs)...)
			known++
		}
	}
	return addrs
}

// loopback keeps the addresses on this machine's loopback, all if there are
// none: the network is to stay on the machine.
func loopback(addrs []string) []string {
	var local []string
	for _, a := range addrs {
		if strings.HasPrefix(a, "/ip4/127.") || strings.HasPrefix(a, "/ip6/::1/") {
			local = append(local, a)
		}
	}
	if local == nil {
		return addrs
	}
	return local
}

// run starts the process of a node that does not run.
func (t *Testnet) run(n *node) error {
	// On loopback alone, and after a restart at the same addresses.
	listen, api := "/ip4/127.0.0.1/udp/0/quic-v1,/ip4/127.0.0.1/tcp/0", "127.0.0.1:0"
	t.mu.Lock()
	if n.listen != "" {
		listen = n.listen
	}
	if n.API != "" {
		api = n.API
	}
	t.mu.Unlock()
	argv := []string{t.conf.Binary, "node",
		"--home", n.Dir,
		"--listen", listen,
		"--api", api,
		"--model", t.model.ID,
		"--span", n.span,
		"--threads", strconv.Itoa(t.conf.Threads),
		"--open=" + strconv.FormatBool(!t.conf.Private), "--no-mdns", "--json-events",
	}
	if t.conf.Private { // members see each other's names
		argv = append(argv, "--name", n.Name)
	}
	if b := t.bootstraps(n); len(b) > 0 {
		argv = append(argv, "--bootstrap", strings.Join(b, ","))
	}
	argv = append(argv, t.conf.Args...)
	argv = append(argv, t.conf.ArgsOf[n.Name]...)
	env := append(baseEnv(), "SHOAL_PAUSE_LOAD=0", "SHOAL_LEND_ON_BATTERY=true", // nodes are load to each other
		"SHOAL_ENGINE=ggml") // unless Args or Env say otherwise: the same everywhere, whatever is installed
	l := t.conf.Link
	if t.conf.Cuts {
		l.Cuts = CutsFile(t.conf.Dir, n.Name)
	}
	if !l.IsZero() {
		env = append(env, "SHOAL_LINK="+l.String())
	}
	env = append(env, t.conf.Env...)

	// Under the lock, so that no event of the process is taken for its
	// predecessor's, and no process starts after Close took its list.
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errors.New("testnet: closed")
	}
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		return err
	}
	begun := make(chan *process, 1)
	var self *process
	p, err := startProcess(t.spawner, n.Name, argv, env, n.Log, t.conf.Log, func(e Event) {
		if self == nil {
			self = <-begun
		}
		t.nodeEvent(n, self, e)
	})
	if err != nil {
		return fmt.Errorf("starting %s: %w", n.Name, err)
	}
	n.proc, n.PID, n.EnginePID, n.Ready, n.Addrs = p, p.pid, 0, false, nil
	n.stopping, n.failure = false, nil
	t.changedLocked()
	t.emit(Event{Node: n.Name, Event: EventStarted, PID: p.pid})
	begun <- p
	t.exits.Go(func() {
		<-p.exited
		t.ended(n, p)
	})
	return nil
}

// nodeEvent takes over what a node says of itself.
func (t *Testnet) nodeEvent(n *node, p *process, e Event) {
	e.Node = n.Name
	t.mu.Lock()
	if n.proc == p {
		switch e.Event {
		case EventListening:
			n.Peer, n.Addrs, n.listen = e.Peer, e.Addrs, listenAddrs(loopback(e.Addrs))
			if e.API != "" {
				n.API = e.API
			}
		case EventServing:
			n.From, n.To, n.Ready = e.From, e.To, e.Ready
			if e.EnginePID != 0 {
				n.EnginePID = e.EnginePID
			}
		case EventEngine:
			n.EnginePID, n.Ready = e.EnginePID, n.Ready && e.EnginePID != 0
		}
		t.changedLocked()
	}
	t.mu.Unlock()
	t.emit(e)
}

// ended takes over that a process has ended; the first call for it counts.
func (t *Testnet) ended(n *node, p *process) {
	t.mu.Lock()
	if n.proc != p {
		t.mu.Unlock()
		return
	}
	e := Event{Node: n.Name, Event: EventExited, PID: p.pid}
	n.proc, n.PID, n.EnginePID, n.Ready = nil, 0, 0, false
	if !n.stopping {
		n.failure = fmt.Errorf("%s ended unexpectedly (%s); the end of its log (%s):\n%s",
			n.Name, exitText(p.err), n.Log, tail(n.Log, logTail))
		e.Error = n.failure.Error()
	}
	t.changedLocked()
	t.mu.Unlock()
	t.emit(e)
}

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

func (t *Testnet) emit(e Event) {
	t.events.Lock()
	defer t.events.Unlock()
	t.conf.Events(e)
}

// changedLocked wakes who waits for a change, and keeps the state file true.
func (t *Testnet) changedLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
	if t.state != "" && !t.closed {
		_ = t.writeStateLocked() // the first write told of a path that cannot be written
	}
}

// waitListening waits for a node's first event.
func (t *Testnet) waitListening(ctx context.Context, n *node) error {
	for {
		t.mu.Lock()
		listening, failure, running, changed := len(n.Addrs) > 0, n.failure, n.proc != nil, t.changed
		t.mu.Unlock()
		switch {
		case failure != nil:
			return failure
		case listening:
			return nil
		case !running:
			return fmt.Errorf("%s was stopped before it listened", n.Name)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen yet: %w", n.Name, context.Cause(ctx))
		}
	}
}

// listenAddrs are a node's addresses as --listen takes them.
func listenAddrs(addrs []string) string {
	var list []string
	for _, a := range addrs {
		a, _, _ = strings.Cut(a, "/p2p/")
		list = append(list, a)
	}
	return strings.Join(list, ",")
}
