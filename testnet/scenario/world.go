package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/node/proc"
	"github.com/shoalnet/shoal/testnet"
)

// Network is what faults act on: a *testnet.Testnet.
type Network interface {
	Kill(name string) error
	Stop(name string) error
	Signal(name string, sig syscall.Signal) error
	SignalEngine(name string, sig syscall.Signal) error
	Cut(a, b []string) (heal func() error, err error)
	Restart(ctx context.Context, name string) error
	AddNode(ctx context.Context, span string) (testnet.Node, error)
}

// States of a node, which is in exactly one at any time.
const (
	Up       = "up"       // serves
	Starting = "starting" // runs, but does not serve yet: it or its engine has just started
	Leaving  = "leaving"  // drains
	Down     = "down"
	Hung     = "hung"
	CutOff   = "cut"  // serves, but not everyone can reach it
	Slowed   = "slow" // serves, with a part of its computing time
)

// Period is a time that a node spent in a state.
type Period struct {
	State string `json:"state"`
	From  Moment `json:"from_s"`
	To    Moment `json:"to_s"`
}

// FaultRecord is what happened to a planned fault.
type FaultRecord struct {
	Kind    string   `json:"kind"`
	Nodes   []string `json:"nodes,omitempty"`
	Others  []string `json:"others,omitempty"` // of a partition: its other side
	Planned Moment   `json:"planned_s"`
	At      Moment   `json:"at_s"`
	Until   Moment   `json:"until_s,omitempty"`
	Skipped string   `json:"skipped,omitempty"` // why it was not done
	Error   string   `json:"error,omitempty"`

	alone bool // a partition that is about its one node
}

// waitMost is how long a fault waits for a node that it can hit.
const waitMost = 10 * time.Second

// world inflicts faults on a network and records the states of its nodes.
type world struct {
	s   *Scenario
	say func(string)

	mu      sync.Mutex
	net     Network
	blocks  int
	clock   clock
	nodes   []*nodeState
	faults  []*FaultRecord
	cuts    []*FaultRecord // that last
	crashes []string
}

type nodeState struct {
	name     string
	from, to int
	events   int // faults

	running, ready, leaving, hung bool
	cut, slow                     int

	taken bool      // a fault is hitting it
	out   bool      // down or about to be: no route may rely on it
	since time.Time // it has been live
	past  []Period  // the last one lasts
}

func newWorld(s *Scenario, say func(string)) *world {
	return &world{s: s, say: say, clock: clock{begin: time.Now()}}
}

func (n *nodeState) state() string {
	switch {
	case !n.running:
		return Down
	case n.hung:
		return Hung
	case !n.ready:
		return Starting
	case n.leaving:
		return Leaving
	case n.cut > 0:
		return CutOff
	case n.slow > 0:
		return Slowed
	}
	return Up
}

// live reports whether a route can use the node.
func (n *nodeState) live() bool { return n.running && n.ready && !n.leaving && !n.hung && !n.out }

// event handles an event of the testnet.
func (w *world) event(e testnet.Event) {
	if e.Node == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changeLocked(e.Node, func(n *nodeState) {
		switch e.Event {
		case testnet.EventStarted:
			n.running, n.ready, n.leaving, n.hung = true, false, false, false
		case testnet.EventServing:
			n.ready, n.from, n.to = e.Ready, e.From, e.To
		case testnet.EventEngine:
			n.ready = n.ready && e.EnginePID != 0
		case testnet.EventExited:
			n.running, n.ready, n.leaving, n.hung = false, false, false, false
			if e.Error != "" {
				w.crashes = append(w.crashes, e.Error)
				w.say(e.Error)
			}
		}
	})
}

// changeLocked changes a node and keeps its history.
func (w *world) changeLocked(name string, change func(*nodeState)) {
	n := w.nodeLocked(name)
	was := n.live()
	change(n)
	if !was && n.live() {
		n.since = time.Now()
	}
	state, now := n.state(), w.clock.now()
	if k := len(n.past); k > 0 {
		if n.past[k-1].State == state {
			return
		}
		n.past[k-1].To = now
	}
	n.past = append(n.past, Period{State: state, From: now})
}

func (w *world) nodeLocked(name string) *nodeState {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	n := &nodeState{name: name}
	w.nodes = append(w.nodes, n)
	return n
}

func (w *world) change(name string, change func(*nodeState)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changeLocked(name, change)
}

// start begins the period of the faults.
func (w *world) start(net Network, blocks int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.net, w.blocks, w.clock = net, blocks, clock{begin: time.Now()}
	for _, n := range w.nodes {
		n.past = []Period{{State: n.state()}}
	}
}

// run inflicts all faults at their times, and returns when they are over or ctx ends. It
// undoes every hang, cut and slowdown before it returns.
func (w *world) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, p := range w.s.Plan() {
		if !sleep(ctx, time.Until(w.clock.begin.Add(p.When))) {
			return
		}
		all.Go(func() { w.do(ctx, &p) })
	}
}

// sleep waits; false if ctx ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *world) do(ctx context.Context, p *Planned) {
	rec := &FaultRecord{Kind: p.Kind, Planned: moment(p.When)}
	if err := w.choose(ctx, p, rec); err != nil {
		if ctx.Err() == nil {
			w.mu.Lock()
			rec.At, rec.Skipped = w.clock.now(), err.Error()
			w.faults = append(w.faults, rec)
			w.mu.Unlock()
			w.say(fmt.Sprintf("%s is not done: %s", p.Kind, err))
		}
		return
	}
	w.say(rec.what())
	err := w.inflict(ctx, p, rec)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		rec.Error = err.Error()
		w.say(fmt.Sprintf("%s failed: %s", rec.what(), err))
	}
}

func (r *FaultRecord) what() string {
	s := r.Kind + " " + strings.Join(r.Nodes, "+")
	if len(r.Others) > 0 {
		s += " | " + strings.Join(r.Others, "+")
	}
	return s
}

// choose picks and marks the nodes that a fault hits. It waits for a while until one can
// be hit.
func (w *world) choose(ctx context.Context, p *Planned, rec *FaultRecord) error {
	most := waitMost
	if p.Every > 0 {
		most = min(most, p.Every)
	}
	for end := time.Now().Add(most); ; {
		err := w.tryChoose(p, rec)
		if err == nil || time.Now().After(end) {
			return err
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
}

func (w *world) tryChoose(p *Planned, rec *FaultRecord) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	done := func(names ...string) error {
		rec.At, rec.Nodes = w.clock.now(), names
		w.faults = append(w.faults, rec)
		for _, name := range slices.Concat(append([][]string{names}, p.Groups[min(1, len(p.Groups)):]...)...) {
			if name != testnet.Client {
				n := w.nodeLocked(name)
				n.events++
			}
		}
		return nil
	}
	switch {
	case p.Kind == Join:
		return done()
	case p.Groups != nil:
		return w.cutGroupsLocked(p, rec, done)
	}
	var names []string
	for _, n := range w.nodes {
		names = append(names, n.name)
	}
	var why error
	for _, name := range p.order(w.s.Seed, names) {
		err := w.canHitLocked(p.Kind, name)
		if err == nil {
			n := w.nodeLocked(name)
			n.taken, n.out = true, p.Kind != Slow && p.Kind != Rejoin
			if p.Kind == Partition {
				rec.Others, rec.alone = append(w.othersLocked(name), testnet.Client), true
			}
			return done(name)
		}
		why = err
	}
	if p.Target == Random || p.Target == RoundRobin {
		return fmt.Errorf("there was no node that it could hit (%w)", why)
	}
	return why
}

func (w *world) othersLocked(name string) (others []string) {
	for _, n := range w.nodes {
		if n.name != name {
			others = append(others, n.name)
		}
	}
	return others
}

// cutGroupsLocked checks a partition between groups and makes it count.
func (w *world) cutGroupsLocked(p *Planned, rec *FaultRecord, done func(...string) error) error {
	for _, name := range slices.Concat(p.Groups...) {
		if name != testnet.Client && !slices.ContainsFunc(w.nodes, func(n *nodeState) bool { return n.name == name }) {
			return fmt.Errorf("%s has not joined yet", name)
		}
	}
	rec.Nodes, rec.Others = p.Groups[0], p.Groups[1]
	w.cuts = append(w.cuts, rec)
	if !w.s.AllowGap && !w.routeLocked("") {
		w.cuts = w.cuts[:len(w.cuts)-1]
		return errors.New("no route would be left on either side")
	}
	return done(p.Groups[0]...)
}

// canHitLocked reports why a node cannot be hit, for instance as the last that serves its
// blocks; nil if it can.
func (w *world) canHitLocked(kind, name string) error {
	n := w.nodeLocked(name)
	switch {
	case n.taken:
		return fmt.Errorf("%s is hit already", name)
	case kind == Rejoin && n.running:
		return fmt.Errorf("%s runs", name)
	case kind == Rejoin, kind == Slow && n.live():
		return nil
	case !n.live():
		return fmt.Errorf("%s is not up", name)
	case !w.s.AllowGap && !w.routeLocked(name):
		return fmt.Errorf("without %s there would be no route", name)
	}
	return nil
}

// routeLocked reports whether there is a route without a node.
func (w *world) routeLocked(without string) bool {
	var servers []server
	for _, n := range w.nodes {
		if n.name != without && n.live() && time.Since(n.since) >= w.s.Settle {
			servers = append(servers, server{n.name, n.from, n.to})
		}
	}
	return route(servers, w.blocks, w.isCutLocked)
}

func (w *world) isCutLocked(a, b string) bool {
	return slices.ContainsFunc(w.cuts, func(c *FaultRecord) bool {
		return slices.Contains(c.Nodes, a) && slices.Contains(c.Others, b) || slices.Contains(c.Nodes, b) && slices.Contains(c.Others, a)
	})
}

// inflict does a fault to the chosen nodes, and undoes it after its time.
func (w *world) inflict(ctx context.Context, p *Planned, rec *FaultRecord) error {
	if p.Kind == Join {
		return w.join(ctx, p, rec)
	}
	name := rec.Nodes[0]
	if p.Groups == nil {
		defer w.change(name, func(n *nodeState) { n.taken, n.out = false, false })
	}
	switch p.Kind {
	case Kill, Stop:
		return w.end(ctx, p, rec, name)
	case Hang:
		return w.pause(ctx, p, rec, func(sig syscall.Signal) error { return w.net.Signal(name, sig) })
	case HangEngine:
		return w.pause(ctx, p, rec, func(sig syscall.Signal) error { return w.net.SignalEngine(name, sig) })
	case KillEngine:
		w.change(name, func(n *nodeState) { n.ready = false }) // its own event follows
		return w.net.SignalEngine(name, syscall.SIGKILL)
	case Slow:
		return w.slow(ctx, p, rec, name)
	case Partition:
		return w.partition(ctx, p, rec)
	case Rejoin:
		return w.net.Restart(ctx, name)
	}
	return fmt.Errorf("there is no fault %q", p.Kind)
}

// until notes when a fault was over.
func (w *world) until(rec *FaultRecord) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rec.Until = w.clock.now()
}

func (w *world) end(ctx context.Context, p *Planned, rec *FaultRecord, name string) error {
	end := w.net.Kill
	if p.Kind == Stop {
		end = w.net.Stop
		w.change(name, func(n *nodeState) { n.leaving = true })
	}
	if err := end(name); err != nil {
		return err
	}
	w.until(rec)
	if p.Rejoin < 0 || !sleep(ctx, p.Rejoin) {
		return nil
	}
	w.rejoined(name)
	return w.net.Restart(ctx, name)
}

// rejoined records that a node came back after a fault.
func (w *world) rejoined(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.clock.now()
	rec := &FaultRecord{Kind: Rejoin, Nodes: []string{name}, Planned: now, At: now}
	w.faults = append(w.faults, rec)
	w.say(rec.what())
}

func (w *world) pause(ctx context.Context, p *Planned, rec *FaultRecord, signal func(syscall.Signal) error) error {
	if err := signal(proc.Pause); err != nil {
		return err
	}
	w.change(rec.Nodes[0], func(n *nodeState) { n.hung = true })
	sleep(ctx, p.For)
	err := signal(proc.Continue)
	w.change(rec.Nodes[0], func(n *nodeState) { n.hung = false })
	w.until(rec)
	return err
}

// turn is how often a slow engine gets its share.
const turn = 100 * time.Millisecond

func (w *world) slow(ctx context.Context, p *Planned, rec *FaultRecord, name string) error {
	w.change(name, func(n *nodeState) { n.slow++ })
	defer w.change(name, func(n *nodeState) { n.slow-- })
	defer w.until(rec)
	works := time.Duration(p.Share * float64(turn))
	for end := time.Now().Add(p.For); time.Now().Before(end) && ctx.Err() == nil; {
		if err := w.net.SignalEngine(name, proc.Pause); err != nil {
			return err
		}
		sleep(ctx, turn-works)
		if err := w.net.SignalEngine(name, proc.Continue); err != nil {
			return err
		}
		sleep(ctx, works)
	}
	return nil
}

func (w *world) partition(ctx context.Context, p *Planned, rec *FaultRecord) error {
	heal, err := w.net.Cut(rec.Nodes, rec.Others)
	if err != nil {
		return err
	}
	w.mu.Lock()
	if p.Groups == nil {
		w.cuts = append(w.cuts, rec)
	}
	w.cutLocked(rec, 1)
	w.mu.Unlock()
	sleep(ctx, p.For)
	err = heal()
	w.mu.Lock()
	w.cuts = slices.DeleteFunc(w.cuts, func(c *FaultRecord) bool { return c == rec })
	w.cutLocked(rec, -1)
	w.mu.Unlock()
	w.until(rec)
	return err
}

// hit returns the nodes that a fault is about: both sides of a partition, unless it only
// separates one node from all others.
func (r *FaultRecord) hit() []string {
	if r.alone {
		return r.Nodes
	}
	return slices.Concat(r.Nodes, r.Others)
}

// cutLocked marks the nodes of a partition.
func (w *world) cutLocked(rec *FaultRecord, by int) {
	for _, name := range rec.hit() {
		if name != testnet.Client {
			w.changeLocked(name, func(n *nodeState) { n.cut += by })
		}
	}
}

func (w *world) join(ctx context.Context, p *Planned, rec *FaultRecord) error {
	n, err := w.net.AddNode(ctx, p.Span)
	w.mu.Lock()
	defer w.mu.Unlock()
	if n.Name != "" {
		rec.Nodes = []string{n.Name}
		w.nodeLocked(n.Name).events++
	}
	return err
}
