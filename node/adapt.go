package node

import (
	"context"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

// The parts declare what they need; here each gets it from the others.

// streams opens stage streams for stages and sessions.
type streams struct{ *network.Network }

func (s streams) open(ctx context.Context, p peer.ID, offer []byte) (*network.Stream, error) {
	return s.Network.Open(ctx, p, offer, protocol.StageID, protocol.StageID1)
}

type stageDialer struct{ streams }

func (d stageDialer) OpenStage(ctx context.Context, p peer.ID, offer []byte) (stage.Stream, error) {
	return d.open(ctx, p, offer)
}

type sessionDialer struct{ streams }

func (d sessionDialer) OpenStage(ctx context.Context, p peer.ID, offer []byte) (session.Stream, error) {
	return d.open(ctx, p, offer)
}

// lackingWant is a want that tells how many bytes are lacking.
type lackingWant interface {
	exchange.Want
	lacks() int64
}

// shardWant is what a fetch is to bring of a model: first the nodes that list
// the leaves, then the leaves.
type shardWant struct {
	m      *store.Model
	shards []int
}

// batchLeaves is how many leaves a fetch asks for before it looks again at
// what is lacking.
const batchLeaves = 16384

func (w shardWant) Next(context.Context) ([]exchange.Need, error) {
	nodes, err := w.m.NeedNodes(w.shards)
	if err != nil || len(nodes) > 0 {
		return bare(nodes), err
	}
	leaves, err := w.m.Missing(w.shards)
	if err != nil {
		return nil, err
	}
	return leafNeeds(leaves), nil
}

func leafNeeds(leaves []store.Leaf) (out []exchange.Need) {
	for _, l := range leaves[:min(len(leaves), batchLeaves)] {
		out = append(out, exchange.Need{CID: l.CID, Number: l.Number, Size: l.Size, File: l.File, Offset: l.Offset})
	}
	return out
}

func (w shardWant) lacks() (n int64) {
	for _, i := range w.shards {
		n += w.m.Manifest().Shards[i].Size
	}
	return n - w.m.HeldOf(w.shards)
}

func (w shardWant) Put(_ context.Context, c cid.Cid, data []byte) error {
	return w.m.PutVerified(c, data)
}

// damageWant is to bring the leaves that were found damaged.
type damageWant struct{ m *store.Model }

func (w damageWant) Next(context.Context) ([]exchange.Need, error) {
	return leafNeeds(w.m.Damaged()), nil
}

func (w damageWant) Put(_ context.Context, c cid.Cid, data []byte) error {
	return w.m.PutVerified(c, data)
}

func (w damageWant) lacks() (n int64) {
	for _, l := range w.m.Damaged() {
		n += int64(l.Size)
	}
	return n
}

// bare are blocks of which nothing but the CID is known.
func bare(list []cid.Cid) (out []exchange.Need) {
	for _, c := range list {
		out = append(out, exchange.Need{CID: c, Number: -1})
	}
	return out
}

// nodeWant is to bring the nodes that list all of a model's leaves: with them,
// a later change of span needs no peer where there is an origin.
type nodeWant struct{ shardWant }

func (w nodeWant) Next(context.Context) ([]exchange.Need, error) {
	list, err := w.m.NeedNodes(w.shards)
	return bare(list), err
}

// originsOf lists where a model's files can be had outside of the network. Each
// place that it was added from has all of them.
func originsOf(m *store.Model) (out []exchange.Origin) {
	files := m.Manifest().Files
	for i, where := range m.Origins() {
		o := exchange.Origin{Where: where, File: i % len(files), Size: files[i%len(files)].Size}
		o.Transport, o.Redirect = m.Way(where)
		out = append(out, o)
	}
	return out
}

// modelLeaves gives a model of the store to the exchange.
func (n *Node) modelLeaves(id cid.Cid) exchange.Leaves {
	m, err := n.store.Model(id)
	if err != nil {
		return nil
	}
	return m
}

// busy says that sessions run on this node.
func (n *Node) busy() bool {
	for _, s := range n.stages.Stages() {
		if s.Status().Sessions > 0 {
			return true
		}
	}
	return n.asking.Load() > 0
}

// distances tells the planner what was measured: by this node, and by the
// peers it asked.
type distances map[[2]string]time.Duration

func (d distances) OneWay(a, b string) (time.Duration, bool) {
	if rtt, ok := d[[2]string{a, b}]; ok {
		return rtt / 2, true
	}
	rtt, ok := d[[2]string{b, a}]
	return rtt / 2, ok
}

func (d distances) set(a, b string, rtt time.Duration) {
	if old, ok := d[[2]string{b, a}]; ok { // both ends measure: the least is the truest
		rtt = min(rtt, old)
		delete(d, [2]string{b, a})
	}
	d[[2]string{a, b}] = rtt
}
