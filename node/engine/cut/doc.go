// Package cut makes GGUF files of spans of blocks that llama.cpp's library takes
// for whole models.
//
// The library computes a model from its first block to its last. A file whose
// blocks are numbered from 0, and whose metadata agree with that, is such a model
// to it: hidden states go in in place of tokens, and come out behind the last
// block. [Of] derives the header of that file, and the ranges of the model's own
// bytes that follow it; it reads and writes no file.
//
//   - What the metadata have per block is cut to the span's blocks. Where a file
//     has an interval in place of a list, or leaves it to the library, the list is
//     written: the library counts intervals from block 0.
//   - Numbers that count blocks from the model's beginning, such as
//     leading_dense_block_count, are counted from the span's.
//   - Blocks that predict further tokens (nextn_predict_layers) are left out.
//   - No stage reads a text, so every file has the tokenizer "no_vocab", with as
//     many tokens as its tensors need: the model's at its end, 32 before.
//   - The file that begins a model has the embedding behind the library's tensors, for
//     the engine to look tokens up in (embedding.go). Some architectures need it among
//     them; then the file has the model's tokens.
//   - Tensors that the library demands, but that the span does not compute with (the
//     embedding in a stage that is given hidden states, the output head in one that
//     returns them) are holes: zeros that take no room on a disk, in the smallest
//     type that their width permits. So a span needs no byte beyond its shards.
//
// The library demands that tensors lie in the order of its table, without gaps. They
// are put in the order in which they lie in the model's file, holes first; and the
// header is padded so that the longest range lies as it does there in relation to a
// disk's blocks, which lets a file system share it.
//
// Where a model can be cut at all is protocol/blocks' matter, which [Of] asks.
//
// [Lay] knows the case of the whole model in one file, too: a header to put before it,
// without moving a byte.
package cut
