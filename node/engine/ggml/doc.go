// Package ggml is the back end of node/engine that computes with ggml, through the
// packages of github.com/ollama/ollama. It is one of two packages that are built
// with C (the other is node/convert); only a program's main package imports it.
//
// An adapter for each architecture (arch.go) runs the library's own layers from one
// block to another, so a hidden state can enter before block From and leave after
// block To-1. The library loads all tensors that a file lists, and leaves the fields
// of absent ones nil.
//
// Differences from the library, found by comparing with references:
//   - Metadata defaults are those of the GGUF specification (engine.Defaults); the
//     library's own are other ones for several keys.
//   - A sliding window of W tokens includes the token itself, as in the models'
//     own code; the library's caches keep W before it. The caches are made here
//     with W-1, and with memory for rows that may be taken back.
//   - The KV cache is one of our own (cache.go): the library's takes any free
//     cell, so that a session's last bits depend on who else is there. It takes
//     memory only for cells that are used, on Linux and without a GPU, and gives it
//     back when they are not used any more.
//   - Without a GPU and except on Windows, weights are not copied: the tensors point into
//     a read-only mapping of the stage file (weights.go). The store keeps the file's
//     shards while they are served. A page that the system has dropped is read from the
//     disk again, unverified: whoever can write there can change what was verified at
//     load, as with llama.cpp.
//   - Flash attention is off on the CPU.
//   - A row computes the same alone and among others, to the last bit (single.go). On
//     Linux and x86 that is always so; elsewhere it is so with
//     engine.Config.Exact, which adds rows to small passes.
//   - Models that the library would compute wrongly are refused by engine.Check.
//
// ggml's CPU backend is process-global, so one lock serializes all passes of a
// process. The number of threads is not set once: spare machines are busy machines,
// and a thread that waits for a core costs more than it brings: node/engine/tune.
//
// # The library's end
//
// Version v0.24.0 of github.com/ollama/ollama is the last one with an engine written
// in Go: its makers removed that on 2026-05-29. The module's list of versions does
// not show v0.24.0; go.mod asks for it by its exact version, and no update of the
// modules may move it. What that means:
//
//   - Kernels do not move any more. What llama.cpp's ggml gains in speed, in number
//     formats and in back ends for new GPUs does not come here.
//   - Nor do architectures. A model family that is not in arch.go would have to be
//     written here, layers and all; engine.Supported is what there will be.
//   - Nobody else mends its faults. Those that we know are worked around above, and
//     the fence is there for those that we do not.
//   - It keeps working: everything that it is built from is in the module and in a
//     C compiler, and nothing of it talks to a service.
//
// So this back end stays for what it computes, and what comes next is a second one
// behind the same interface, over llama.cpp's C API. It has to pass the same suite
// (node/engine/enginetest), with tolerances of its own.
package ggml
