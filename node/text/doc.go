// Package text converts text to a model's tokens and back: tokenizers, chat
// templates and stop sequences, all from the metadata of a GGUF file.
//
// All kinds of tokenizer that GGUF has are here, by their names in
// tokenizer.ggml.model: byte-level BPE ("gpt2", with the variants "gemma4",
// "whitespace" and "hybriddna"), which splits words by the regular expressions that
// tokenizer.ggml.pre names; SentencePiece's BPE with byte fallback ("llama") and its
// unigrams ("t5", of XLM-R, too); BERT's WordPiece ("bert"); and those of RWKV ("rwkv")
// and PLaMo 2 ("plamo2"). They follow llama.cpp (src/llama-vocab.cpp, src/unicode.cpp),
// which in practice defines GGUF's fields. The expressions of a list apply one after
// another, each to the pieces that the previous one left; text that an expression does
// not match is a piece too.
//
// Where llama.cpp only approximates what models were trained with, this package does
// what the models' own tokenizers do. In GPT-4o's pattern and its relatives (tekken,
// llama4, kimi-k2, tiny_aya, youtu, afmoe), llama.cpp knows neither marks nor the
// capitals of scripts other than English, and so splits Hindi, Thai and "ÉCOLE"
// differently. Of a syllable of Hangul, BERT's normalization leaves all letters, not the
// first one alone, and of a word of an Indic script the vowel signs that take space of
// their own. Bytes that are not UTF-8 are kept, where llama.cpp replaces them by U+FFFD.
// Without ParseSpecial, only user-defined tokens are recognized in text, and no
// algorithm returns a control token for it.
//
// All algorithms take time in proportion to a text's length, times the length of the
// vocabulary's longest token for those that search for tokens ("bert", "t5", "rwkv",
// "plamo2"). They search in a sorted list of the tokens, which is smaller than a trie.
//
// Chat templates are Jinja in Hugging Face's dialect, rendered by package
// jinja. They come with the model and are as trustworthy as it is: they access
// no file, and their time, memory and output are bounded.
package text
