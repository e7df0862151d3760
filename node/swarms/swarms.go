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

// ErrNone means that no network of a private node can be opened.
var ErrNone = errors.New("no swarm of this home can be entered")

// Open opens the networks, and from then on those of swarms that are joined or left. A
// private node without a swarm begins in a network that nobody else is in. The errors are
// those of network.New for the open network, and for a swarm's if there is no other, which
// then wraps ErrNone.
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
	if cfg.Book != nil {
		if err := cfg.Book.Run(h); err != nil {
			cfg.Log.Warn("a swarm cannot be entered", "error", err)
			if h.nets == nil {
				return nil, fmt.Errorf("%w: %w", ErrNone, err)
			}
		}
	}
	if h.nets == nil {
		if err := h.beAlone(); err != nil {
			return nil, err
		}
	}
	return h.nets, nil
}

// beAlone begins in a network that nobody else is in. Addresses of peers are of no use
// there, but a wrong one is said all the same.
func (h *hosts) beAlone() error {
	if _, err := network.ParsePeers(h.cfg.Network.Bootstrap); err != nil {
		return err
	}
	n, err := nobody(h.cfg.Network)
	if err != nil {
		return err
	}
	h.begin(n)
	h.empty = n.Swarm()
	return nil
}

// hosts are the networks, as the book of swarms has them entered and left. Its calls come
// one at a time, those for bridges beside the others, but only once nets is set.
type hosts struct {
	cfg  Config
	nets *joint.Networks  // nil: none is open yet
	open *network.Network // nil: the node is not in the open network

	outside *network.Outside // of each swarm and bridge, but for its key; nil: none

	empty string // ID of the network that nobody else is in; "": it is not needed
	main  string // ID of the swarm that has the operator's port, addresses and bootstrap peers; "": none has
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
	if b := h.cfg.Book.RunsBridge(n.Swarm()); b != nil {
		return b.Attach(n)
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

// config is what a swarm's network is opened with. The first swarm of a private node is
// its main one, also after it was left and entered again.
func (h *hosts) config(swarm string) network.Config {
	if (h.nets == nil || h.empty != "") && h.cfg.Private {
		h.main = swarm
	}
	if h.main != swarm {
		return h.aside()
	}
	cfg := h.cfg.Network
	cfg.Outside = h.outside
	return cfg
}

// aside is config for a network that is not the main one.
func (h *hosts) aside() network.Config {
	cfg := h.cfg.Network
	cfg.Outside = h.outside
	cfg.ListenPort, cfg.Bootstrap, cfg.ListenAddrs = 0, nil, nil
	for _, a := range h.cfg.Network.ListenAddrs { // the same addresses, at other ports
		cfg.ListenAddrs = append(cfg.ListenAddrs, ports.ReplaceAllString(a, "/$1/0"))
	}
	return cfg
}

// Enter implements swarm.Hosts. The errors are those of network.New and joint.Networks.Add.
func (h *hosts) Enter(s *swarm.Swarm) error {
	cfg := s.Network(h.config(s.ID().String()))
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

// EnterBridge implements swarm.Hosts. A light client lends nothing, so it opens no network for
// that. The errors are those of network.New and joint.Networks.Add.
func (h *hosts) EnterBridge(b *swarm.Bridge) error {
	cfg := h.cfg.Network
	if h.nets == nil || cfg.Client && b.Lends() {
		return nil
	}
	n, err := network.NewKept(b.Network(h.aside()), b.PortFile())
	if err != nil {
		return err
	}
	if err := h.nets.Add(n); err != nil {
		return errors.Join(err, n.Close())
	}
	return nil
}

// ExitBridge implements swarm.Hosts.
func (h *hosts) ExitBridge(b *swarm.Bridge) {
	if h.nets == nil {
		return
	}
	if err := h.nets.Remove(b.ID()); err != nil && !errors.Is(err, joint.ErrUnknown) {
		h.cfg.Log.Warn("leaving the network of a bridge", "bridge", b.ID(), "error", err)
	}
}

// ChangeBridge implements swarm.Hosts.
func (h *hosts) ChangeBridge(b *swarm.Bridge) {
	if h.nets == nil {
		return
	}
	if err := h.nets.Reoffer(b.ID()); err != nil && !errors.Is(err, joint.ErrUnknown) {
		h.cfg.Log.Warn("what is lent over a bridge cannot be offered", "bridge", b.ID(), "error", err)
	}
}

// nobody opens a private network that nobody else can be in: its root key is not kept. It
// has no name, by which reports know it.
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
		Key: key, ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, Version: cfg.Version, Log: cfg.Log,
		Swarm: &network.Swarm{Root: issuer.Root, View: view, Certificate: cert},
	})
}
