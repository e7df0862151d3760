// Package text converts text to a model's tokens and back: tokenizers, chat
// templates and stop sequences, all from the metadata of a GGUF file.
//
// Two kinds of tokenizer cover the supported architectures: byte-level BPE
// ("gpt2"), which splits words by the regular expressions that
// tokenizer.ggml.pre names, and SentencePiece's BPE with byte fallback
// ("llama"). Both follow llama.cpp (src/llama-vocab.cpp, src/unicode.cpp),
// which in practice defines GGUF's fields. The expressions of a list apply one
// after another, each to the pieces that the previous one left; text that an
// expression does not match is a piece too. The expressions differ from
// llama.cpp's where those only approximate what the models were trained with.
// In GPT-4o's pattern and its relatives (tekken, llama4, kimi-k2, tiny_aya,
// youtu, afmoe), llama.cpp knows neither marks nor the capitals of scripts
// other than English, and so splits Hindi, Thai and "ÉCOLE" differently. Bytes
// that are not UTF-8 are kept, where llama.cpp replaces them by U+FFFD. Without
// ParseSpecial, only user-defined tokens are recognized in text.
//
// Chat templates are Jinja in Hugging Face's dialect, rendered by package
// jinja. They come with the model and are as trustworthy as it is: they access
// no file, and their time, memory and output are bounded.
package text
