// Package llama is the back end of node/engine that computes with llama.cpp's library,
// libllama, which is opened at run time: stock and unpatched, as distributions and
// packages ship it.
//
// # Models with recurrent blocks
//
// A recurrent block has one state per sequence and no positions that could be removed.
// So the engine keeps, per sequence, copies of the states every stateStep positions or
// somewhat more, at page boundaries, and what went in: tokens, or the hidden states
// behind the older copies. [local.Remove] and [local.CopyPrefix] put the nearest copy in
// place, and compute the rows from there on once more (snapshots.go). A span that begins
// the model keeps all its tokens, and can always be taken back; any other at least
// Info.Back positions, and as far as the copies and rows that fit allow. What both may
// take is counted in Info.KV. The alternative, the library's own n_rs_seq, covers only the
// rows of the last pass, and more than that goes wrong without an error.
//
// The library reorders the rows of a pass over several sequences of such a model, unless
// it has one row of each in the order of their numbers; so passes are cut where it would
// (local.breaks).
package llama
