package library

import (
	"context"
	"slices"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

// lackingWant is a want that knows how many bytes are missing.
type lackingWant interface {
	exchange.Want
	lacks() int64
}

// shardWant is shards of a model: first the nodes that list the leaves, then the
// leaves.
type shardWant struct {
	m      *store.Model
	shards []int
}

// batchLeaves is how many leaves a fetch asks for before it looks again at what is
// missing.
const batchLeaves = 16384

func (w shardWant) Next(context.Context) ([]exchange.Need, error) {
	nodes, err := w.m.NeedNodes(w.shards)
	if err != nil || len(nodes) > 0 {
		return bare(nodes, w.heading()), err
	}
	leaves, err := w.m.Missing(w.shards)
	if err != nil {
		return nil, err
	}
	return leafNeeds(w.m, leaves), nil
}

// heading reports whether nothing but the header is wanted.
func (w shardWant) heading() bool {
	return !slices.ContainsFunc(w.shards, func(i int) bool { return !header(w.m, i) })
}

// header reports whether a shard is the model's header.
func header(m *store.Model, shard int) bool {
	return m.Manifest().Shards[shard].Kind == protocol.ShardHeader
}

func leafNeeds(m *store.Model, leaves []store.Leaf) (out []exchange.Need) {
	for _, l := range leaves[:min(len(leaves), batchLeaves)] {
		out = append(out, exchange.Need{CID: l.CID, Number: l.Number, Size: l.Size, File: l.File, Offset: l.Offset, Heading: header(m, l.Shard)})
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

// damageWant is the leaves that were found damaged.
type damageWant struct{ m *store.Model }

func (w damageWant) Next(context.Context) ([]exchange.Need, error) {
	return leafNeeds(w.m, w.m.Damaged()), nil
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

// bare are blocks of which nothing but the CID is known. heading says that they are of the
// header alone.
func bare(list []cid.Cid, heading bool) (out []exchange.Need) {
	for _, c := range list {
		out = append(out, exchange.Need{CID: c, Number: -1, Heading: heading})
	}
	return out
}

// nodeWant is the nodes that list all of a model's leaves: with them a later change
// of span needs no peer where there is an origin.
type nodeWant struct{ shardWant }

func (w nodeWant) Next(context.Context) ([]exchange.Need, error) {
	list, err := w.m.NeedNodes(w.shards)
	return bare(list, false), err
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

// Leaves returns how an exchange finds the leaves of a store's models.
func Leaves(s *store.Store) func(model cid.Cid) exchange.Leaves {
	return func(model cid.Cid) exchange.Leaves {
		m, err := s.Model(model)
		if err != nil {
			return nil
		}
		return m
	}
}

// Headings is Leaves without the weights.
func Headings(s *store.Store) func(model cid.Cid) exchange.Leaves {
	return func(model cid.Cid) exchange.Leaves {
		m, err := s.Model(model)
		if err != nil {
			return nil
		}
		return m.Heading()
	}
}
