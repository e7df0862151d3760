// Package store keeps models on disk, content-addressed and sparse.
//
// The unit on disk is the model's own file, in which a node fills in only the
// byte ranges of the shards it holds. Each leaf has exactly one place there
// (leaves with equal content have one each): it is written once, with pwrite,
// and served from that place; there is no second block store. Dropping a shard
// punches a hole.
//
//	models/<CID>/manifest      the manifest, dag-cbor
//	             record.json   what else this node knows: names, origins, pins
//	             nodes         the shards' UnixFS nodes (dag-pb), which list their leaves
//	             journal       append-only: which leaves are held
//	             data.gguf     [prefix][file 1][file 2, at the next MiB] ...
//	             span-A-B.gguf a file laid out for an engine that needs its own, made of the leaves
//
// The stage header is not written over the original header, as the design has
// it, but into a prefix in front of it, which is otherwise a hole. So the
// original header stays whole: a crash in the middle of a rewrite damages
// nothing, and no copy of it is needed. The stage header may be longer than the
// original, as it must be when defaults are added to a header that keeps all
// its tensors. And split models need no special treatment.
//
// A leaf is verified before it is written, again whenever it is served to a
// peer, and again before each load by the engine. So a byte that flips on disk
// is found, dropped and fetched again, and never used in a computation. This
// also covers power cuts: the journal is written right after the data and
// synced in batches, so a leaf that it names may be lost with the disk's cache;
// the leaf then fails its check. A killed process loses only the leaves in
// flight.
//
// What is held and what is allocated are kept equal. Each gap between held
// leaves is punched as a whole: when leaves are dropped, when a model is opened
// (which cleans up after a crash), and by GC. A stage header stays from the
// first load on as long as anything besides the model's header is held: on a
// full disk, an engine that restarts would otherwise find no room for it.
// Rounding to file system blocks still costs up to two blocks per stretch of
// held bytes.
//
// An engine that cannot compute from the model's file as it is gets one of its own
// (LaidFile), unless a header in the prefix is all that it needs. Where the file system
// can, the two share the disk's blocks; else the file is a copy, and counts as such. It
// ends with the sum of its bytes, so that it need not be made again, nor its leaves be
// read, at the next start. It goes with the leaves that it was made of, and where
// nobody serves its span: with another span's file, by GC, and first of all when the
// quota needs room. Opening the store removes what a crash left of one.
//
// Origins are read from public addresses only, unless a person named one that
// lies elsewhere (way.go); the record keeps which those are.
//
// Only one process uses a directory at a time, by a lock on its lock file. That
// file contains the process's ID, for people.
package store
