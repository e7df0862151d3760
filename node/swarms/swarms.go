package swarms

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/network/joint"
	"github.com/shoalnet/shoal/node/swarm"
	"github.com/shoalnet/shoal/protocol/member"
)

// Config is what the networks of a node are opened with.
type Config struct {
	Network  network.Config // of the open network but for Key, and what all have in common
	KeyFile  string         // of the open network's key
	PortFile string         // where the open network's port is kept
	Private  bool           // the node is not in the open network
	Relays   []string       // multiaddrs of relays of the open network for private swarms; nil: the bootstrap peers; NoRelays: none
	Book     *swarm.Book    // of the home's private swarms; nil: none
	May      func(swarm string, model cid.Cid) bool
	Log      *slog.Logger
}

// NoRelays keeps private swarms off the relays of the open network, as the only one of
// Config.Relays.
const NoRelays = "off"

// ErrNone means that a node would be in no network.
var ErrNone = errors.New("the node is in no swarm, and not in the open network either")

// Open opens the networks, and from then on those of swarms that are joined or left. The
// errors are those of network.New for the open network, and for a swarm's if there is no
// other; it wraps ErrNone if there is none at all.
func Open(cfg Config) (*joint.Networks, error) {
	h := &hosts{cfg: cfg}
	if err := h.nameRelays(); err != nil {
		return nil, err
	}
	if !cfg.Private {
		key, err := network.LoadKey(cfg.KeyFile)
		if err != nil {
			return nil, err
		}
		cfg.Network.Key = key
		open, err := network.NewKept(cfg.Network, cfg.PortFile)
		if err != nil {
			return nil, err
		}
		h.open = open
		h.begin(open)
	}
	why := ErrNone
	if cfg.Book != nil {
		if err := cfg.Book.Run(h); err != nil {
			why = fmt.Errorf("%w: %w", ErrNone, err)
			cfg.Log.Warn("a swarm cannot be entered", "error", err)
		}
	}
	if h.nets == nil {
		return nil, why
	}
	return h.nets, nil
}

// hosts are the networks, as the book of swarms has them entered and left. Its calls come
// one at a time.
type hosts struct {
	cfg  Config
	nets *joint.Networks  // nil: none is open yet
	open *network.Network // nil: the node is not in the open network

	outside *network.Outside // of each swarm, but for its key; nil: none

	empty string // ID of the network that nobody else is in; "": it is not needed
}

var _ swarm.Hosts = (*hosts)(nil)

func (h *hosts) begin(first *network.Network) {
	h.nets = joint.New(joint.Config{May: h.cfg.May}, first)
	h.nets.Each(h.attach)
}

// attach has a swarm's own protocols served on its network.
func (h *hosts) attach(n *network.Network) (leave func()) {
	if h.cfg.Book == nil {
		return nil
	}
	for _, s := range h.cfg.Book.Swarms() {
		if s.ID().String() == n.Swarm() {
			return s.Attach(n)
		}
	}
	return nil
}

// nameRelays notes the relays of the open network that the operator means. The error wraps
// network.ErrAddress.
func (h *hosts) nameRelays() error {
	list := h.cfg.Relays
	switch {
	case len(list) == 1 && list[0] == NoRelays, h.cfg.Book == nil:
		return nil
	case len(list) == 0:
		list = h.cfg.Network.Bootstrap
	}
	named, err := network.ParsePeers(list)
	if err != nil {
		return err
	}
	h.outside = &network.Outside{Named: named, Known: func() []peer.AddrInfo {
		if h.open != nil {
			return h.open.Relays()
		}
		return network.RememberedRelays(h.cfg.Network.PeersFile)
	}}
	return nil
}

// ports are the ports in listening addresses.
var ports = regexp.MustCompile(`/(udp|tcp)/\d+`)

// config is what a swarm's network is opened with.
func (h *hosts) config() network.Config {
	cfg := h.cfg.Network
	cfg.Outside = h.outside
	if h.nets == nil && h.cfg.Private {
		return cfg
	}
	cfg.ListenPort, cfg.Bootstrap, cfg.ListenAddrs = 0, nil, nil
	for _, a := range h.cfg.Network.ListenAddrs { // the same addresses, at other ports
		cfg.ListenAddrs = append(cfg.ListenAddrs, ports.ReplaceAllString(a, "/$1/0"))
	}
	return cfg
}

// Enter implements swarm.Hosts. The errors are those of network.New and joint.Networks.Add.
func (h *hosts) Enter(s *swarm.Swarm) error {
	cfg := s.Network(h.config())
	cfg.SwarmName = s.Name()
	n, err := network.NewKept(cfg, s.PortFile())
	if err != nil {
		return err
	}
	if h.nets == nil {
		h.begin(n)
		return nil
	}
	if err := h.nets.Add(n); err != nil {
		return errors.Join(err, n.Close())
	}
	if h.empty != "" {
		err, h.empty = h.nets.Remove(h.empty), ""
	}
	return err
}

// Exit implements swarm.Hosts.
func (h *hosts) Exit(s *swarm.Swarm) {
	err := h.nets.Remove(s.ID().String())
	if errors.Is(err, joint.ErrLast) {
		var n *network.Network
		if n, err = nobody(h.cfg.Network); err == nil {
			h.empty = n.Swarm()
			err = errors.Join(h.nets.Add(n), h.nets.Remove(s.ID().String()))
		}
	}
	if err != nil {
		h.cfg.Log.Warn("leaving a swarm", "swarm", s.Name(), "error", err)
	}
}

// nobody opens a private network that nobody else can be in: its root key is not kept.
func nobody(cfg network.Config) (*network.Network, error) {
	_, root, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	self, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	k, err := member.KeyOf(self)
	if err != nil {
		return nil, err
	}
	view, err := member.NewView()
	if err != nil {
		return nil, err
	}
	issuer := member.Issuer{Root: member.PublicKey(root), Key: root}
	cert, err := issuer.Issue(k, member.Use|member.Serve, time.Now(), member.Life)
	if err != nil {
		return nil, err
	}
	return network.New(network.Config{
		Key: key, ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, Options: cfg.Options, Version: cfg.Version, Log: cfg.Log,
		SwarmName: "none", Swarm: &network.Swarm{Root: issuer.Root, View: view, Certificate: cert},
	})
}
