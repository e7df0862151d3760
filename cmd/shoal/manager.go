package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
)

// manager reports the node's state to the service manager that started it, systemd
// (sd_notify(3)):
//
//	READY=1     the API has answered; models to serve may still be loading
//	WATCHDOG=1  the API has answered again, at the watchdog's interval
//	STATUS=     what it serves, for `systemctl status`
//	STOPPING=1  the node is leaving, and how long that may take
//
// A nil manager does nothing: no service manager started this node.
type manager struct {
	drain time.Duration // that sessions may take to go when the node leaves
	every time.Duration // between two signs of life
	log   *slog.Logger

	listening chan string   // receives the path of the node's socket, "" if it has none
	news      chan struct{} // something has happened
	leaving   atomic.Bool
}

// closeTime is how long a node may take to exit once its API is closed.
const closeTime = 10 * time.Second

// beat is the interval between requests to the node, unless a watchdog needs a shorter
// one.
const beat = 30 * time.Second

func newManager(cfg node.Config) *manager {
	if listens, _ := daemon.SdNotify(false, "STATUS=starting"); !listens {
		return nil
	}
	m := &manager{drain: cfg.DrainTime, every: beat, log: cfg.Log, listening: make(chan string, 1), news: make(chan struct{}, 1)}
	timeout, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		m.log.Warn("the service manager's watchdog settings cannot be read", "error", err)
	}
	if timeout > 0 {
		m.every = min(beat, timeout/3)
	}
	return m
}

// watch returns a function that notes events and passes them on to next.
func (m *manager) watch(next func(node.Event)) func(node.Event) {
	if m == nil {
		return next
	}
	return func(e node.Event) {
		switch e.Event {
		case "listening":
			m.listening <- e.Socket
		case "fetching": // the next sign of life tells of it
		case "leaving":
			m.leaving.Store(true)
			m.say(daemon.SdNotifyStopping, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (m.drain+2*closeTime).Microseconds()))
		default:
			select {
			case m.news <- struct{}{}:
			default:
			}
		}
		next(e)
	}
}

// tell reports the node's state until stop is called. local is a client of the node
// that needs no socket.
func (m *manager) tell(local *api.Client) (stop func()) {
	if m == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background()) // it is alive while it leaves, too
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.run(ctx, local)
	}()
	return func() {
		cancel()
		<-done
	}
}

func (m *manager) run(ctx context.Context, cl *api.Client) {
	// Use the socket as commands do, wherever the API listens for others: an answer
	// through it shows that neither the server nor a lock of the node is stuck.
	select {
	case socket := <-m.listening:
		if socket != "" {
			cl = api.Unix(socket, cl.Token)
		}
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	for ready := false; ; {
		ask, cancel := context.WithTimeout(ctx, m.every)
		s, err := cl.Status(ask)
		cancel()
		switch {
		case err == nil:
			lines := []string{daemon.SdNotifyWatchdog, "STATUS=" + statusLine(s)}
			if !ready {
				lines = append([]string{daemon.SdNotifyReady}, lines...)
				ready = true
			}
			m.say(lines...)
		case ctx.Err() == nil && !m.leaving.Load():
			m.log.Warn("the node does not answer, so the service manager's watchdog is not fed", "error", err)
		}
		select {
		case <-tick.C:
		case <-m.news:
		case <-ctx.Done():
			return
		}
	}
}

func (m *manager) say(lines ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		m.log.Warn("cannot notify the service manager", "error", err)
	}
}

// statusLine describes in one line what a node does. It is cleaned, since models' names
// come from peers.
func statusLine(s *api.Status) string {
	var parts []string
	for _, v := range s.Serving {
		part := cell(v.Name)
		if v.To > 0 {
			part += fmt.Sprintf(" %d-%d", v.From, v.To)
		}
		if v.Ready {
			part += fmt.Sprintf(": ready, %d sessions", v.Sessions)
		} else {
			part += ": " + cell(v.State)
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		parts = []string{"serving nothing"}
	}
	return fmt.Sprintf("%s; %d peers", strings.Join(parts, "; "), s.Peers)
}
