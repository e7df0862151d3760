// Package text turns text into a model's tokens and back: tokenizers, chat
// templates, stop sequences, all from the metadata of a GGUF file.
//
// Two kinds of tokenizer cover the supported architectures: byte-level BPE
// ("gpt2"), whose words are split by regular expressions that tokenizer.ggml.pre
// names, and SentencePiece's BPE with byte fallback ("llama"). Both follow
// llama.cpp (src/llama-vocab.cpp, src/unicode.cpp), by which GGUF's fields are
// defined in practice; the expressions are those of the models' own
// tokenizer.json as it spells them. Expressions of one list apply one after
// another, each to the pieces that the one before left, and what an expression
// does not match is a piece, too.
//
// Chat templates are Jinja in Hugging Face's dialect, rendered by package jinja. They
// come with the model and are as trustworthy as it: they reach no file, and
// time and output are bounded.
package text
