// Package exchange gets what a node lacks of a model from peers that hold it,
// and gives of what it holds.
//
// Blocks travel by bitswap (boxo), under the protocol prefix /shoal. Which
// peers to ask is not bitswap's to find out: shoal announces models, never
// leaves, so the holders of the model are looked up once, connected to, and
// the bitswap session asks those. Every block is verified against its CID
// before it reaches the store, whoever sent it, and a block that is not what
// was asked for is as good as not sent.
//
// A fetch asks the store what it lacks and is done when that is nothing, so it
// resumes by itself: first the manifest, then the DAG nodes that list a
// shard's leaves, then the leaves. At most window leaves are under way at
// once, which bounds memory to about that many MiB.
//
// No boxo type stands in this package's API: its maintainers have announced
// the end of their work on it.
package exchange
