package natlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/nat"
)

// Config is what a lab is made of.
type Config struct {
	Binary     string
	Dir        string        // for homes and logs
	Delay      time.Duration // one way, of each machine's line
	Publics    int           // nodes in the internet, by which homes come
	PublicArgs []string      // for those, such as one that says that they are reachable
	HomeArgs   []string
}

// port is where every daemon listens.
const port = 4001

// Lab is public nodes in an internet, and homes that come and go.
type Lab struct {
	conf    Config
	net     *Internet
	publics []*Daemon
	boot    []string
	spans   []testnet.Span
	text    string // of the first long answer

	mu      sync.Mutex
	daemons []*Daemon // of homes
}

// New starts the public nodes and prepares three thirds of the model. Close
// ends everything.
func New(ctx context.Context, c Config) (*Lab, error) {
	l := &Lab{conf: c, net: NewInternet()}
	if err := errors.Join(l.prepare(ctx), l.startPublics(ctx)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Homes is how many homes share the model.
const Homes = 3

// prepare imports a third of the model for each home, to be copied.
func (l *Lab) prepare(ctx context.Context) error {
	add := func(home string, span testnet.Span) (m testnet.Model, err error) {
		cmd := exec.CommandContext(ctx, l.conf.Binary, "model", "add", "--home", home, "--json", "--span", span.String(), testnet.TinyModel)
		cmd.Env = environment()
		out, err := cmd.Output()
		if err != nil {
			return m, fmt.Errorf("importing the model: %w", err)
		}
		return m, json.Unmarshal(out, &m)
	}
	m, err := add(l.template(0), testnet.Span{From: 0, To: 1})
	if err != nil {
		return err
	}
	for i, s := range (*protocol.Cuts)(nil).Divide(m.Blocks, Homes) {
		span := testnet.Span{From: s.From, To: s.To}
		l.spans = append(l.spans, span)
		if _, err := add(l.template(i), span); err != nil {
			return err
		}
		for _, leave := range []string{"key", "peers.json", "api.token"} { // each home gets its own
			_ = os.Remove(filepath.Join(l.template(i), leave))
		}
	}
	return nil
}

func (l *Lab) template(i int) string { return filepath.Join(l.conf.Dir, fmt.Sprint("span", i)) }

func (l *Lab) startPublics(ctx context.Context) error {
	for i := range l.conf.Publics {
		d, err := l.startPublic(ctx, i)
		if err != nil {
			return err
		}
		l.publics = append(l.publics, d)
		for _, a := range publicAddrs(i) {
			l.boot = append(l.boot, a+"/p2p/"+d.Peer)
		}
	}
	return nil
}

// publicAddrs returns where a public node listens. Each is in another network.
func publicAddrs(i int) []string {
	return []string{
		fmt.Sprintf("/ip4/5.%d.0.1/udp/%d/quic-v1", i, port), fmt.Sprintf("/ip4/5.%d.0.1/tcp/%d", i, port),
		fmt.Sprintf("/ip6/2a0%d::1/udp/%d/quic-v1", i, port), fmt.Sprintf("/ip6/2a0%d::1/tcp/%d", i, port),
	}
}

func (l *Lab) startPublic(ctx context.Context, i int) (*Daemon, error) {
	m, err := l.net.Add(l.conf.Delay, Line{Addr: netip.AddrFrom4([4]byte{5, byte(i), 0, 1})}, Line{Addr: netip.MustParseAddr(fmt.Sprintf("2a0%d::1", i))})
	if err != nil {
		return nil, err
	}
	args := append([]string{"--open", "--api", "off"}, l.conf.PublicArgs...)
	for _, a := range publicAddrs(i) {
		args = append(args, "--listen", a)
	}
	for _, b := range l.boot {
		args = append(args, "--bootstrap", b)
	}
	return m.Start(ctx, l.conf.Binary, filepath.Join(l.conf.Dir, fmt.Sprint("public", i)), args...)
}

// Access is how a home is connected.
type Access struct {
	IPv4 nat.Kind // the zero Kind: it has no IPv4
	IPv6 nat.Kind // of its firewall; the zero Kind: it has no IPv6
}

// Home starts the daemon of home i, which serves third i of the model, and
// waits until that is loaded. What stands in its directory from before is removed.
func (l *Lab) Home(ctx context.Context, i int, a Access) (*Daemon, error) {
	home := filepath.Join(l.conf.Dir, fmt.Sprint("home", i))
	if err := os.RemoveAll(home); err != nil {
		return nil, err
	}
	if err := os.CopyFS(home, os.DirFS(l.template(i))); err != nil {
		return nil, err
	}
	var lines []Line
	if a.IPv4 != (nat.Kind{}) {
		lines = append(lines, Line{Addr: netip.AddrFrom4([4]byte{10, byte(i + 1), 0, 2}), Kind: a.IPv4, Outside: netip.AddrFrom4([4]byte{6, byte(i + 1), 0, 1})})
	}
	if a.IPv6 != (nat.Kind{}) {
		lines = append(lines, Line{Addr: netip.MustParseAddr(fmt.Sprintf("2b0%d::2", i+1)), Kind: a.IPv6})
	}
	m, err := l.net.Add(l.conf.Delay, lines...)
	if err != nil {
		return nil, err
	}
	args := append([]string{"--open", "--model", testnet.TinyModel, "--span", l.spans[i].String(), "--listen-port", strconv.Itoa(port), "--api", "127.0.0.1:11500"}, l.conf.HomeArgs...)
	for _, b := range l.boot {
		args = append(args, "--bootstrap", b)
	}
	d, err := m.Start(ctx, l.conf.Binary, home, args...)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.daemons = append(l.daemons, d)
	l.mu.Unlock()
	return d, d.Loaded(ctx)
}

// Leave ends the homes; the public nodes stay.
func (l *Lab) Leave() {
	l.mu.Lock()
	daemons := l.daemons
	l.daemons = nil
	l.mu.Unlock()
	for _, d := range daemons {
		d.Kill()
		d.on.Close()
	}
}

// Close ends all daemons and removes all machines.
func (l *Lab) Close() {
	l.Leave()
	for _, d := range l.publics {
		d.Kill()
	}
	l.net.Close()
}

// Answer is what `shoal prompt --json` says.
type Answer struct {
	Text   string  `json:"text"`
	Rate   float64 `json:"tokens_per_s"`
	First  float64 `json:"ttft_ms"`
	Tokens []int   `json:"tokens"`
	Route  []struct {
		Peer string `json:"peer"`
	} `json:"route"`
	Recoveries []api.Recovery `json:"recoveries"`
}

// Prompt asks for n tokens, always the most likely.
func (d *Daemon) Prompt(ctx context.Context, text string, n int) (a Answer, err error) {
	out, err := d.Shoal(ctx, "prompt", "--json", "-t", "0", "-n", strconv.Itoa(n), text)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(out, &a)
}

// Path is how a daemon is connected to a peer.
type Path struct {
	Peer      string  `json:"peer"`
	Addr      string  `json:"addr"`
	Transport string  `json:"transport"`
	Relayed   bool    `json:"relayed"`
	Relay     string  `json:"relay"` // peer ID; older nodes do not say
	RTT       float64 `json:"rtt_ms"`
}

// Paths returns how the daemon is connected to its peers.
func (d *Daemon) Paths(ctx context.Context) (all []Path, err error) {
	out, err := d.Shoal(ctx, "peers", "--json")
	if err != nil {
		return nil, err
	}
	return all, json.Unmarshal(out, &all)
}

// pathsTo returns how the daemon is connected to others.
func (d *Daemon) pathsTo(ctx context.Context, others []*Daemon) ([]Path, error) {
	all, err := d.Paths(ctx)
	return slices.DeleteFunc(all, func(p Path) bool {
		return !slices.ContainsFunc(others, func(o *Daemon) bool { return o.Peer == p.Peer })
	}), err
}
