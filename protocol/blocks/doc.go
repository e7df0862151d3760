// Package blocks reads from a GGUF file's metadata what a model's blocks are: which of
// them attend to the whole text, which to a window and which carry a recurrent state,
// what that takes in memory per token and per sequence, and between which of them
// llama.cpp's library can be cut (protocol.Cuts). It is pure.
//
// The library computes a span as if it were a model of its own, so a cut is wrong where
// the library goes by a block's number or by the number of blocks, where blocks share
// more than the hidden state, and where it expects each kind of block that the
// architecture has. The table in arch.go says so by architecture; everything else is
// computed from the metadata. Keys that only need other values in a span's header are
// no matter of this package. An architecture that the table does not name is cut
// anywhere: it is the table's purpose to name those that cannot be.
//
// The rules hold for the library, not for the engine that is compiled in: that one
// keeps a block's number when it computes a span.
package blocks
