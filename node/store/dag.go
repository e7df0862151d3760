package store

import (
	"fmt"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"github.com/shoalnet/shoal/protocol"
)

// A shard is a UnixFS file after the profile UnixFS_v1_2025: raw leaves of at
// most 1 MiB, sha2-256, nodes of up to 1024 links, balanced. The one liberty is
// that a leaf ends where its extent does, so not every leaf but the last is
// full; UnixFS names each size.
const dagWidth = 1024

var (
	rawBuilder  = cid.V1Builder{Codec: cid.Raw, MhType: multihash.SHA2_256}
	nodeBuilder = cid.V1Builder{Codec: cid.DagProtobuf, MhType: multihash.SHA2_256}
)

// link is a leaf, or a subtree and the bytes of file below it.
type link struct {
	c    cid.Cid
	size uint64 // of the file's bytes below
	tree uint64 // of the encoded bytes below
}

// dagLeaves splits a shard's extents: the sizes of its leaves in order.
func dagLeaves(s *protocol.Shard) []int {
	var sizes []int
	for _, e := range s.Extents {
		for left := e.Length; left > 0; left -= protocol.LeafSize {
			sizes = append(sizes, int(min(left, protocol.LeafSize)))
		}
	}
	return sizes
}

// buildDAG makes the nodes over leaves. A single leaf is its own root.
func buildDAG(leaves []link) (root cid.Cid, nodes map[cid.Cid][]byte, err error) {
	nodes = map[cid.Cid][]byte{}
	for level := leaves; ; {
		if len(level) == 1 {
			return level[0].c, nodes, nil
		}
		var up []link
		for len(level) > 0 {
			n := min(dagWidth, len(level))
			l, raw, err := buildNode(level[:n])
			if err != nil {
				return cid.Undef, nil, err
			}
			nodes[l.c] = raw
			up = append(up, l)
			level = level[n:]
		}
		level = up
	}
}

func buildNode(children []link) (link, []byte, error) {
	fsn := unixfs.NewFSNode(unixfs.TFile)
	nd := new(merkledag.ProtoNode)
	if err := nd.SetCidBuilder(nodeBuilder); err != nil {
		return link{}, nil, err
	}
	var out link
	for _, c := range children {
		fsn.AddBlockSize(c.size)
		out.size += c.size
		out.tree += c.tree
		if err := nd.AddRawLink("", &ipld.Link{Size: c.tree, Cid: c.c}); err != nil {
			return link{}, nil, err
		}
	}
	data, err := fsn.GetBytes()
	if err != nil {
		return link{}, nil, err
	}
	nd.SetData(data)
	raw := nd.RawData()
	out.c = nd.Cid()
	out.tree += uint64(len(raw))
	return out, raw, nil
}

// walkDAG lists a shard's leaves from the nodes that are known, and the nodes
// that are lacking. want is the sizes of all leaves, which the manifest tells;
// a DAG that is of another shape is refused.
func walkDAG(root cid.Cid, want []int, node func(cid.Cid) []byte) (leaves []cid.Cid, lacking []cid.Cid, err error) {
	if len(want) == 1 {
		if root.Prefix().Codec != cid.Raw {
			return nil, nil, fmt.Errorf("%w: a shard of one leaf under a node", protocol.ErrManifest)
		}
		return []cid.Cid{root}, nil, nil
	}
	depth := 1
	for n := dagWidth; n < len(want); n *= dagWidth {
		depth++
	}
	at := 0
	var walk func(c cid.Cid, depth int, most int) error
	walk = func(c cid.Cid, depth, most int) error {
		raw := node(c)
		if raw == nil {
			lacking = append(lacking, c)
			at += min(most, len(want)-at)
			return nil
		}
		pn, err := merkledag.DecodeProtobuf(raw)
		if err != nil {
			return fmt.Errorf("%w: shard node %s: %w", protocol.ErrManifest, c, err)
		}
		fsn, err := unixfs.FSNodeFromBytes(pn.Data())
		if err != nil || fsn.Type() != unixfs.TFile || fsn.NumChildren() != len(pn.Links()) || len(fsn.Data()) > 0 {
			return fmt.Errorf("%w: shard node %s is no file's", protocol.ErrManifest, c)
		}
		per := most / dagWidth
		expect := (min(most, len(want)-at) + per - 1) / per
		if len(pn.Links()) != expect {
			return fmt.Errorf("%w: shard node %s has %d links, %d were due", protocol.ErrManifest, c, len(pn.Links()), expect)
		}
		for i, l := range pn.Links() {
			if depth > 1 {
				if err := walk(l.Cid, depth-1, per); err != nil {
					return err
				}
				continue
			}
			if fsn.BlockSize(i) != uint64(want[at]) || l.Cid.Prefix().Codec != cid.Raw {
				return fmt.Errorf("%w: leaf %d of shard node %s is not what the manifest says", protocol.ErrManifest, i, c)
			}
			leaves = append(leaves, l.Cid)
			at++
		}
		return nil
	}
	most := 1
	for range depth {
		most *= dagWidth
	}
	if err := walk(root, depth, most); err != nil {
		return nil, nil, err
	}
	if len(lacking) > 0 {
		return nil, lacking, nil
	}
	return leaves, nil, nil
}
