package store

import (
	"crypto/sha256"
	"fmt"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"github.com/shoalnet/shoal/protocol"
)

// A shard is a UnixFS file following the profile UnixFS_v1_2025: raw leaves of
// at most 1 MiB, sha2-256, nodes with up to 1024 links, balanced. It differs in
// one respect: a leaf ends where its extent does, so leaves other than the last
// may be short too; UnixFS records the size of each.
const dagWidth = 1024

// maxNode is an upper bound on the bytes of a node with dagWidth links.
const maxNode = 256 << 10

var (
	leafPrefix = cid.Prefix{Version: 1, Codec: cid.Raw, MhType: multihash.SHA2_256, MhLength: sha256.Size}
	nodePrefix = cid.Prefix{Version: 1, Codec: cid.DagProtobuf, MhType: multihash.SHA2_256, MhLength: sha256.Size}
)

// digest is a leaf's CID without the parts that all leaves share.
type digest [sha256.Size]byte

func (d digest) cid() cid.Cid {
	mh, err := multihash.Encode(d[:], multihash.SHA2_256)
	if err != nil {
		panic(err) // SHA2-256 is always available
	}
	return cid.NewCidV1(cid.Raw, mh)
}

// digestOf returns a leaf's digest; false if c does not have the form of a
// leaf's CID.
func digestOf(c cid.Cid) (d digest, ok bool) {
	if !c.Defined() || c.Prefix() != leafPrefix {
		return d, false
	}
	mh := c.Hash()
	copy(d[:], mh[len(mh)-len(d):])
	return d, true
}

// link refers to a leaf or a subtree.
type link struct {
	c    cid.Cid
	size uint64 // file bytes below it
	tree uint64 // encoded bytes below it
}

// buildDAG builds the nodes above the leaves. A single leaf is its own root.
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
	if err := nd.SetCidBuilder(nodePrefix); err != nil {
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

// walkDAG returns a shard's leaves as far as the known nodes list them, and the
// CIDs of the missing nodes. The manifest determines the number of leaves and
// their sizes; a DAG of any other shape is protocol.ErrManifest.
func walkDAG(root cid.Cid, n int, size func(leaf int) int, node func(cid.Cid) []byte) (leaves []digest, lacking []cid.Cid, err error) {
	bad := func(c cid.Cid, format string, args ...any) error {
		return fmt.Errorf("%w: shard node %s %s", protocol.ErrManifest, c, fmt.Sprintf(format, args...))
	}
	if n == 1 {
		d, ok := digestOf(root)
		if !ok {
			return nil, nil, bad(root, "is not the shard's one leaf")
		}
		return []digest{d}, nil, nil
	}
	at := 0
	var walk func(c cid.Cid, most int) error // most: leaves below a full node at this depth
	walk = func(c cid.Cid, most int) error {
		if c.Prefix() != nodePrefix {
			return bad(c, "is of another kind")
		}
		raw := node(c)
		if raw == nil {
			lacking = append(lacking, c)
			at += min(most, n-at)
			return nil
		}
		pn, err := merkledag.DecodeProtobuf(raw)
		if err != nil {
			return bad(c, "cannot be read: %v", err)
		}
		fsn, err := unixfs.FSNodeFromBytes(pn.Data())
		if err != nil || fsn.Type() != unixfs.TFile || fsn.NumChildren() != len(pn.Links()) || len(fsn.Data()) > 0 {
			return bad(c, "is no file's")
		}
		per := most / dagWidth
		due := (min(most, n-at) + per - 1) / per
		if len(pn.Links()) != due {
			return bad(c, "has %d links, %d were due", len(pn.Links()), due)
		}
		for i, l := range pn.Links() {
			if per > 1 {
				if err := walk(l.Cid, per); err != nil {
					return err
				}
				continue
			}
			d, ok := digestOf(l.Cid)
			if !ok || fsn.BlockSize(i) != uint64(size(at)) {
				return bad(c, "has a leaf %d that is not what the manifest says", i)
			}
			leaves = append(leaves, d)
			at++
		}
		return nil
	}
	most := dagWidth
	for most < n {
		most *= dagWidth
	}
	if err := walk(root, most); err != nil {
		return nil, nil, err
	}
	if len(lacking) > 0 {
		return nil, lacking, nil
	}
	return leaves, nil, nil
}
