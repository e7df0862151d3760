package node

import (
	"context"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/library"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/network/joint"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/swarms"
	"github.com/shoalnet/shoal/protocol"
)

// The parts declare what they need; here each gets it from the others.

// networks says which networks the node is in.
func (c *Config) networks() swarms.Config {
	return swarms.Config{
		Network: network.Config{
			ListenPort: c.ListenPort, ListenAddrs: c.ListenAddrs, Bootstrap: c.Bootstrap, MDNS: !c.NoMDNS,
			Client: c.Client, PeersFile: c.home().Peers(), Sockets: c.Network, Version: c.Version, Public: c.Public, NoRelay: c.NoRelay, Log: c.Log.With("part", "network"),
		},
		KeyFile: c.home().Key(), PortFile: c.home().Port(), Private: c.Private, Relays: c.Relays, Book: c.Swarms, May: c.May, Log: c.Log.With("part", "swarms"),
	}
}

// stageDialer opens streams from stages to their successors.
type stageDialer struct{ *joint.Networks }

func (d stageDialer) OpenStage(ctx context.Context, swarm string, p peer.ID, offer []byte) (stage.Stream, error) {
	return d.OpenIn(ctx, swarm, p, offer, protocol.StageID, protocol.StageID1)
}

// sessionDialer opens streams from sessions to stages.
type sessionDialer struct{ *joint.Networks }

func (d sessionDialer) OpenStage(ctx context.Context, p peer.ID, offer []byte) (session.Stream, error) {
	return d.Open(ctx, p, offer, protocol.StageID, protocol.StageID1)
}

// refuses returns why a client may open no session with a model; nil: it may.
func (n *Node) refuses(st stage.Stream, model cid.Cid) *protocol.Error {
	if e := n.net.Refuses(st.Swarm(), st.Peer(), model); e != nil || n.net.Own(st.Peer()) {
		return e
	}
	return n.cfg.Swarms.Exhausted(st.Swarm())
}

// exchangeIn has the exchange work in a network until leave is called.
func (n *Node) exchangeIn(net *network.Network) (leave func()) {
	may := func(model cid.Cid) bool { return n.net.May(net.Swarm(), model) }
	lends, sends := n.desk.In(net.Swarm(), n.store.Holds)
	side := exchange.Net{
		Host: net.Host(), Find: net, Known: net.KnownHolders, May: may, Lends: lends, Sends: sends, Blocks: n.store.Only(may), Headings: n.store.Headings(may), Room: net.Room,
		Worked: net.Worked, Believable: net.Believable, Dialling: net.Dialling(),
	}
	if !net.Shares() {
		side.Blocks, side.Leaves = side.Headings, library.Headings(n.store)
	}
	if err := n.exchange.Join(side); err != nil {
		n.cfg.Log.Warn("no models are exchanged in a network", "swarm", net.Swarm(), "error", err)
	}
	return func() { _ = n.exchange.Leave(net.Host()) } // all that can fail is to close what is left anyway
}
