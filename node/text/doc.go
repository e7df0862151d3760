// Package text turns text into a model's tokens and back: tokenizers, chat
// templates, stop sequences, all from the metadata of a GGUF file.
//
// Two kinds of tokenizer cover the supported architectures: byte-level BPE
// ("gpt2"), whose words are split by regular expressions that tokenizer.ggml.pre
// names, and SentencePiece's BPE with byte fallback ("llama"). Both follow
// llama.cpp (src/llama-vocab.cpp, src/unicode.cpp), by which GGUF's fields are
// defined in practice. Expressions of one list apply one after another, each to
// the pieces that the one before left, and what an expression does not match is
// a piece, too. They differ from llama.cpp's where those only come near to what
// the models were trained with: in GPT-4o's pattern and its kin (tekken, llama4,
// kimi-k2, tiny_aya, youtu, afmoe), it knows neither the capitals of scripts
// other than English nor marks, and so cuts Hindi, Thai and "ÉCOLE" elsewhere.
// Bytes that are not UTF-8 stay what they are, where llama.cpp takes them for
// U+FFFD, and user-defined tokens alone are found without ParseSpecial.
//
// Chat templates are Jinja in Hugging Face's dialect, rendered by package jinja.
// They come with the model and are as trustworthy as it: they reach no file, and
// time, memory and output are bounded.
package text
