// Package protocol is what two nodes must agree on: the names of things, the
// manifest of a model, the signed offer of a node, the frames of a session,
// error codes, and how activations are written as bytes.
//
// It does no I/O of its own, starts no goroutine and reads no clock: whoever
// needs the time passes it in. README.md beside this file is the specification
// for other implementations, testdata holds its vectors, and wire.proto the
// messages.
//
// The words used here and everywhere: a model is a GGUF file's content, named
// by the CID of its manifest; a shard is a separately addressed part of it; a
// leaf is a block of at most 1 MiB of a shard; a span is a run of consecutive
// blocks; a stage is a node serving a span inside a session; a step is a batch
// of positions of one session on its way along the route.
package protocol
