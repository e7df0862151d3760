// Package llama is the back end of node/engine that computes with llama.cpp's library,
// libllama, which is opened at run time: stock and unpatched, as distributions and
// packages ship it. Nothing of it is needed to build this package, which declares by
// itself what it calls.
//
//	Find             where a library is, without opening it
//	Known            the versions that can be opened
//	Backend, Load    an engine
//
// # Spans
//
// The library computes models from beginning to end. A span is a file of its own to it
// (node/engine/cut): blocks numbered from 0, and no vocabulary but as many tokens as the
// tensors need. Hidden states enter as the embeddings of a batch. They leave through the
// callback that the library asks about each node of its graph: it takes the tensor
// l_out-N, what comes out of the last block, and then ends the pass, since what would
// follow are logits that nobody reads. The library leaves rows out before its last block
// that are no outputs, so all rows of such a span are outputs. The library then keeps room
// for their logits, clears it, and copies into it, of every token that the file has. So a
// span's file has few tokens, at the model's beginning, too: there the engine looks the
// tokens' rows of the embedding up by itself, with the library's own conversion, so that
// they have the same bits (embedding.go). Where that is not possible, because an
// architecture begins with more than that or an adapter adds to the embedding, passes are
// cut so that the room is small (logitBytes).
//
// Models with rotations in several dimensions take four positions per row of hidden
// states. The rows of a pass keep their order with a cache that all sequences share;
// recurrent models have their rows reordered, so that their passes are cut by sequence.
//
// # The library's promise
//
// Structs that are passed by value change from version to version, without any sign in
// the file. So versions are known by name (versions.go): each has a table of where its
// fields are, and none is there that was not run through the suite; those before 0.5.0
// compute whole models only, since they ignore what a span's file says. A library is opened
// in the engine's process alone, and there compared with its version's row: its name,
// ggml's version, the sizes of its parameters, as far as calls show them, and their
// defaults. Then it computes a tiny model of known numbers, whole, up to a tap and from
// hidden states on. One that fails is refused (engine.ErrUnsupported) before it has seen
// a stage file. One that ends the process ends that one alone (engine.ErrLost); a file
// that was cut short is found before the system maps it.
//
// The shim passes structs larger than those of any version: by value a struct of such a
// size lies in memory, and the library reads the part in front that it knows. That is so
// in the calling conventions of Linux, macOS and Windows on amd64 and arm64.
//
// # Memory
//
// The stage file is mapped. What the library repacks for the processor's kernels (most
// types of weights, on AMX all of them) it copies, and that is not counted in
// Info.Weights, but in Info.Host; cut.Copied foresees it. Once the model is loaded, the
// originals of the copies are not touched again, so their pages are given up: they are
// resident only while the model loads.
//
// The library lays out all cells of a cache when it makes a context. So a context is
// made for one pass and one sequence, and replaced by a larger one when sequences need
// it, which takes over the state of all of them, and by a smaller one when they have
// ended for some seconds (kv.go); an idle engine without sequences has none (trim.go).
// Info.KV is what the cache takes with all of Config.KVTokens. Blocks with a sliding window keep all cells, too: the library's
// smaller cache for them forgets what a sequence that is taken back needs.
//
// A cell that another sequence's row does not see still counts as 0 times what it
// holds, which is not 0 if that is infinite. So a pass whose result is not finite
// is taken back, and the cache is laid out once more from what is left.
//
// # Threads
//
// Without a pool of threads the library makes and ends some in each pass, as it does for
// whoever calls llama_decode alone. The engine attaches one, whose threads sleep between
// passes: decode of SmolLM2-135M on two threads came 7 to 16 % faster. The library's own
// programs have theirs spin between passes, which gains some more, and takes whole cores
// from what else computes on the machine, such as the next stage.
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
//
// # Why not
//
// Purego or yzma's bindings: the program is built with cgo anyway, the former passes no
// struct by value on every platform, the latter needs libffi at run time and knows one
// version; and the callback, which is asked for each node of each pass, would cross
// into Go each time. The library's headers: they are of one version, and it is many
// that have to be opened. llama_set_embeddings_layer_inp, which returns hidden states
// without a callback: it is no public API, and few architectures have it.
//
// Never run: GPUs (whether the callback costs CUDA's graphs is open), arm64, macOS,
// Windows.
package llama
