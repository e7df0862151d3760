// Package llama is the back end of node/engine that computes with llama.cpp's library,
// libllama, which is opened at run time: stock and unpatched, as distributions and
// packages ship it.
package llama
