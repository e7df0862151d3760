package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/swarm"
)

// What `shoal node` prints while it runs.

// narrator prints the node's events for a person. It is safe for concurrent use.
type narrator struct {
	w       io.Writer
	line    liveLine
	serving bool // something is to be served

	mu       sync.Mutex
	cl       *api.Client     // of the node; nil: not yet
	rest     func()          // ends the sign of life; nil: there is none
	explain  bool            // what blocks are has been said
	troubled map[string]bool // warnings printed already
	networks string          // who may use the node; "": not known
	notes    []string        // on its networks
	private  bool            // not in the open network
	invites  bool            // in a swarm that it may let others into
}

func newNarrator(w io.Writer, serving bool) *narrator {
	return &narrator{w: w, line: liveLine{w: w}, serving: serving}
}

// watch says of which node the events are.
func (s *narrator) watch(cl *api.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cl = cl
}

// in says which networks the node is in.
func (s *narrator) in(networks string, notes []string, st *swarm.Start) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.networks, s.notes, s.private, s.invites = networks, notes, st.Private, mayInvite(st)
}

// close ends the sign of life.
func (s *narrator) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet()
}

// quiet removes what is shown of a wait. It is called with mu held.
func (s *narrator) quiet() {
	if s.rest != nil {
		s.rest()
		s.rest = nil
	}
	s.line.clear()
}

// wait shows on a terminal what the node is busy with until the next event.
func (s *narrator) wait() {
	cl := s.cl
	if cl == nil || !s.serving {
		return
	}
	s.rest = waiting(s.w, func() string {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		st, err := cl.Status(ctx)
		if err != nil {
			return "starting"
		}
		for _, v := range st.Serving {
			if !v.Ready {
				return fmt.Sprintf("%s: %s", v.Name, v.State)
			}
		}
		return "starting"
	})
}

func (s *narrator) event(e node.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet()
	switch e.Event {
	case "listening":
		s.listening(e)
		s.wait()
	case "joined":
		fmt.Fprintf(s.w, "joined: %s\n", count(e.Peers, "peer"))
		s.wait()
	case "unreached":
		at := cell(strings.Join(e.Addrs, ", "))
		if e.Machine != "" {
			at = cell(e.Machine) + " at " + at
		}
		fmt.Fprintf(s.w, "cannot join through %s: %s\n", at, cell(e.Error))
		s.wait()
	case "member", "refused", "removed", "stale":
		remark(s.w, swarmText(e))
		s.wait()
	case "fetching":
		s.fetching(e)
	case "serving":
		remark(s.w, fmt.Sprintf("serving %s, %s", cell(e.Name), s.span(e)))
	case "lending":
		if e.Ready {
			fmt.Fprintln(s.w, "lending again")
		} else {
			remark(s.w, fmt.Sprintf("paused: %s", e.Error))
		}
	case "loaded":
		remark(s.w, fmt.Sprintf("%s, %s: loaded, but waiting: %s", cell(e.Name), s.span(e), cell(e.Error)))
	case "waiting":
		remark(s.w, fmt.Sprintf("waiting for model %s: %s", cell(e.Name), cell(e.Error)))
	case "engine":
		remark(s.w, fmt.Sprintf("%s, %s: %s", cell(e.Name), s.span(e), cell(e.Error)))
	case "leaving":
		fmt.Fprintln(s.w, "leaving; running sessions move to other nodes first (Ctrl-C again stops at once)")
	case "stopped":
		fmt.Fprintln(s.w, "stopped")
	}
}

// span names the blocks of an event, and says the first time what they are.
func (s *narrator) span(e node.Event) string {
	text := spanText(e.From, e.To, e.Blocks)
	if e.To-e.From < e.Blocks && !s.explain {
		text += " (a model is a row of blocks; the others must be served by other nodes)"
		s.explain = true
	}
	return text
}

func (s *narrator) listening(e node.Event) {
	if e.API != "" {
		fmt.Fprintf(s.w, "Open http://%s in a browser\n", e.API)
		remark(s.w, fmt.Sprintf("  for programs: http://%s/v1 (OpenAI's API); for a chat here: shoal chat; Ctrl-C stops", e.API))
	}
	if e.TLS != "" {
		printCertificate(s.w, e.URLs, e.TLS)
	}
	if s.networks != "" {
		remark(s.w, s.networks)
	}
	for _, n := range s.notes {
		remark(s.w, n)
	}
	fmt.Fprintf(s.w, "node %s\n", e.Peer)
	if s.invites {
		fmt.Fprintln(s.w, "  to let a machine in:        shoal invite")
	}
	if s.private { // an address alone lets nobody in
		return
	}
	here, there := bootstrapAddrs(e.Addrs)
	if here != "" {
		fmt.Fprintf(s.w, "  to join from this machine:  --bootstrap %s\n", here)
	}
	switch {
	case there == "":
	case private(there):
		fmt.Fprintf(s.w, "  to join on this LAN:        --bootstrap %s\n", there)
	default:
		fmt.Fprintf(s.w, "  to join from elsewhere:     --bootstrap %s\n", there)
	}
}

func (s *narrator) fetching(e node.Event) {
	for _, t := range e.Trouble {
		if !s.troubled[t] {
			fmt.Fprintf(s.w, "warning: %s\n", cell(t))
			if s.troubled == nil || len(s.troubled) > 1000 {
				s.troubled = map[string]bool{}
			}
			s.troubled[t] = true
		}
	}
	if e.Total > 0 {
		what := "fetching " + cell(e.Name)
		if e.To > 0 {
			what += fmt.Sprintf(" blocks %d-%d", e.From, e.To)
		}
		s.line.show(progressText(what+":", api.Progress{Done: e.Done, Total: e.Total, Peers: e.Peers, Origins: e.Origins, Rate: e.Rate}))
	}
}

// private reports that a multiaddr can be reached on its own network only.
func private(addr string) bool {
	parts := strings.Split(addr, "/")
	if len(parts) < 3 {
		return false
	}
	ip, err := netip.ParseAddr(parts[2])
	return err == nil && (ip.IsPrivate() || ip.IsLinkLocalUnicast())
}

// joinTime is how long a node says of its first peers who cannot be reached. Later,
// status and doctor say so.
const joinTime = time.Minute

// watchJoin emits an event when the first peer is there, and one for each bootstrap
// address that cannot be reached. stop ends that.
func watchJoin(ctx context.Context, n *node.Node, emit func(node.Event)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for n.WaitPeers(ctx) != nil { // at once, if it has nowhere to look: others may come to it
			if backoff.Pause(ctx, time.Second) != nil {
				return
			}
		}
		if backoff.Pause(ctx, time.Second/2) != nil { // the others of the same moment
			return
		}
		if st, err := n.Client().Status(ctx); err == nil && st.Peers > 0 {
			emit(node.Event{Event: "joined", Peers: st.Peers})
		}
	})
	wg.Go(func() {
		said := map[string]bool{}
		for end := time.Now().Add(joinTime); time.Now().Before(end) && backoff.Pause(ctx, time.Second) == nil; {
			h, err := n.Client().Health(ctx)
			if err != nil {
				continue
			}
			for _, u := range h.Unreached {
				if u.Bootstrap && !said[u.Peer] {
					said[u.Peer] = true
					emit(node.Event{Event: "unreached", Peer: u.Peer, Addrs: u.Addrs, Error: u.Why})
				}
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}
