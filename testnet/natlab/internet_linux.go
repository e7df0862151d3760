package natlab

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/testnet/nat"
)

// Internet carries packets between machines, each in a network namespace of its
// own. Its methods and those of its machines are safe for concurrent use.
type Internet struct {
	mu       sync.Mutex // guards boxes and routes; not held while packets are read or written
	machines []*Machine
	routes   map[netip.Addr]*Machine // by the address that others see
	walls    map[[2]netip.Addr]bool  // addresses between which nothing passes
}

// NewInternet returns an internet without machines. Close ends it.
func NewInternet() *Internet {
	return &Internet{routes: map[netip.Addr]*Machine{}, walls: map[[2]netip.Addr]bool{}}
}

// Wall keeps packets between two addresses, as others see them, from passing, or lets them
// pass again.
func (n *Internet) Wall(a, b netip.Addr, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.walls[[2]netip.Addr{a, b}], n.walls[[2]netip.Addr{b, a}] = on, on
}

// Line is a machine's connection to the internet for one IP version.
type Line struct {
	Addr netip.Addr // of the machine
	// What stands between the machine and the internet. Without Outside it is a
	// firewall; the zero Kind is nothing at all.
	Kind    nat.Kind
	Outside netip.Addr
}

// Machine is a network namespace whose packets the Internet carries.
type Machine struct {
	net   *Internet
	space *space
	tun   *os.File
	delay time.Duration
	lines map[bool]*way // by "is IPv4"
	queue chan delivery
	ended sync.WaitGroup // reading and delivering
	cut   bool
	env   []string // of processes there, besides environment's
}

// way is a Line in use.
type way struct {
	addr netip.Addr
	box  *nat.NAT // nil: none
}

// delivery is a packet on its way to a machine.
type delivery struct {
	packet []byte
	due    time.Time
}

// queueLength is how many packets may be on their way to a machine; others are
// lost.
const queueLength = 1 << 14

// Add adds a machine with a line per IP version that it has. delay is one way,
// of its part of the path to others. Errors are those of the system: root is
// needed, /dev/net/tun, and ip(8).
func (n *Internet) Add(delay time.Duration, lines ...Line) (m *Machine, err error) {
	m = &Machine{net: n, delay: delay, lines: map[bool]*way{}, queue: make(chan delivery, queueLength)}
	if m.space, err = newSpace(); err != nil {
		return nil, err
	}
	if m.tun, err = m.space.tun(); err != nil {
		if m.tun != nil {
			m.tun.Close()
		}
		m.space.close()
		return nil, err
	}
	n.mu.Lock()
	n.machines = append(n.machines, m)
	n.mu.Unlock()
	m.ended.Go(m.read)
	m.ended.Go(m.deliver)
	for i, l := range lines {
		if err := m.space.addAddr(l.Addr); err != nil {
			return nil, err // Close removes it
		}
		w := &way{addr: l.Addr}
		if l.Kind != (nat.Kind{}) {
			w.box = nat.New(l.Kind, l.Outside, uint64(i+1))
		}
		n.mu.Lock()
		m.lines[l.Addr.Is4()] = w
		n.routes[w.seen()] = m
		n.mu.Unlock()
	}
	return m, nil
}

// seen returns the address that others see.
func (w *way) seen() netip.Addr {
	if w.box != nil && w.box.Outside().IsValid() {
		return w.box.Outside()
	}
	return w.addr
}

// Move takes a machine to another network over IPv4: it gets another address,
// and others see another one, too. What was open is gone.
func (m *Machine) Move(addr, outside netip.Addr) error {
	m.net.mu.Lock()
	w := m.lines[true]
	if w == nil {
		m.net.mu.Unlock()
		return fmt.Errorf("the machine has no IPv4")
	}
	old := w.addr
	delete(m.net.routes, w.seen())
	w.addr = addr
	if w.box != nil {
		w.box.Move(outside)
	}
	m.net.routes[w.seen()] = m
	m.net.mu.Unlock()
	if err := m.space.removeAddr(old); err != nil {
		return err
	}
	return m.space.addAddr(addr)
}

// Cut takes the machine off its lines, or puts it back.
func (m *Machine) Cut(cut bool) {
	m.net.mu.Lock()
	defer m.net.mu.Unlock()
	m.cut = cut
}

// Close removes the machines. Their processes should have ended before.
func (n *Internet) Close() {
	n.mu.Lock()
	machines := slices.Clone(n.machines)
	n.mu.Unlock()
	for _, m := range machines {
		m.Close()
	}
}

// Close removes the machine, once.
func (m *Machine) Close() {
	m.net.mu.Lock()
	m.net.machines = slices.DeleteFunc(m.net.machines, func(x *Machine) bool { return x == m })
	maps.DeleteFunc(m.net.routes, func(_ netip.Addr, x *Machine) bool { return x == m })
	m.net.mu.Unlock()
	m.tun.Close()
	close(m.queue) // nobody sends to it: it has left the routes
	m.ended.Wait()
	m.space.close()
}

// read carries what the machine sends.
func (m *Machine) read() {
	buf := make([]byte, 1<<16)
	for {
		n, err := m.tun.Read(buf)
		if err != nil {
			return
		}
		m.net.forward(m, append([]byte(nil), buf[:n]...))
	}
}

// forward takes a packet out of its home, and on its way to where it goes.
func (n *Internet) forward(from *Machine, b []byte) {
	f, s, ok := parse(b)
	if !ok {
		return
	}
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	w := from.lines[f.Src.Addr().Is4()]
	if w == nil || from.cut || f.Src.Addr() != w.addr {
		return
	}
	if w.box != nil {
		if f, ok = w.box.Out(f, now); !ok {
			return
		}
		s.rewrite(f)
	}
	to := n.routes[f.Dst.Addr()]
	if to == nil || to == from || n.walls[[2]netip.Addr{f.Src.Addr(), f.Dst.Addr()}] {
		return
	}
	select {
	case to.queue <- delivery{b, now.Add(from.delay + to.delay)}:
	default:
	}
}

// deliver takes packets into the home once they are due.
func (m *Machine) deliver() {
	for d := range m.queue {
		time.Sleep(time.Until(d.due))
		if m.admit(d.packet) {
			_, _ = m.tun.Write(d.packet)
		}
	}
}

// admit passes a packet through the machine's box.
func (m *Machine) admit(b []byte) bool {
	f, s, ok := parse(b)
	m.net.mu.Lock()
	defer m.net.mu.Unlock()
	w := m.lines[f.Dst.Addr().Is4()]
	if !ok || w == nil || m.cut || f.Dst.Addr() != w.seen() {
		return false
	}
	if w.box != nil {
		if f, ok = w.box.In(f, time.Now()); !ok {
			return false
		}
		s.rewrite(f)
	}
	return true
}
