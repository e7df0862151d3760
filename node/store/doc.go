// Package store keeps models on disk, content-addressed and sparse.
//
// The unit on disk is the model's own file, of which a node fills in only the
// byte ranges of the shards it holds. Each leaf has exactly one place there
// (leaves with the same content have one each): it is written once, with
// pwrite, and served from there; there is no second block store. Dropping a
// shard punches a hole.
//
//	models/<CID>/manifest      the manifest, dag-cbor
//	             record.json   what this node knows besides: names, origins, pins
//	             nodes         the shards' UnixFS nodes (dag-pb): which leaves they have
//	             journal       append-only: which leaves are held
//	             data.gguf     [prefix][file 1][file 2, at the next MiB] ...
//
// One deviation from the design: the stage header is not written over the
// original header but into a prefix in front of it, which is otherwise a hole.
// So the original header stays whole (a crash in the middle of a rewrite can
// damage nothing, and no copy of it is needed), the stage header may be longer
// than the original, as it must be when defaults are written into a header
// that keeps all its tensors, and split models need nothing special.
//
// A leaf is verified before it is written. It is verified again when it is
// served to a peer and before each load by the engine, so a byte that flips on
// disk is found, dropped and fetched again, and never computed with. That also
// settles what a power cut leaves behind: the journal is written right after
// the data and synced in batches, so a leaf it names may be lost with the
// cache; it then fails its check. A killed process loses nothing but the
// leaves in flight.
//
// What is held and what is allocated are kept the same: a gap between held
// leaves is punched as a whole, when leaves are dropped, when a model is opened
// (which finds what a crash left), and by GC. A stage header stays from the first
// load on, as long as anything but the model's header is held: on a full disk an
// engine that was lost must find room for it. What rounding to the file system's blocks costs remains: at most
// two of them for each stretch of held bytes.
//
// Origins are read from public addresses only, unless a person named one that
// lies elsewhere (way.go); which those are, the record keeps.
//
// One process has a directory at a time, by a lock on its lock file; that has
// the process's ID in it, for people.
package store
