// Package engine computes a span of a model's blocks on this machine's
// devices, with ggml through the packages of github.com/ollama/ollama.
//
// What is loaded is a stage file: a GGUF whose header lists only the tensors
// of the span (the library loads all that are listed, and leaves the fields of
// absent ones nil). An adapter for each architecture (arch.go) runs the
// library's own layers from one block to another, so a hidden state can enter
// before block From and leave after block To-1.
//
// [Local] runs in this process; [Child] is the same behind a socketpair, in a
// process of its own: ggml ends the process on some faults, and Go cannot
// recover that. There it is behind a fence (node/fence): what strangers made is
// parsed by C++, and whoever takes that over is to have nothing of the machine.
// Tokens are drawn beside the logits, so those never cross it.
//
// Differences from the library, found by comparing with references:
//   - Metadata defaults are those of the GGUF specification ([Defaults]); the
//     library's own are other ones for several keys.
//   - A sliding window of W tokens includes the token itself, as in the models'
//     own code; the library's caches keep W before it. The caches are made here
//     with W-1, and with memory for rows that may be taken back.
//   - The KV cache is one of our own (cache.go): the library's takes any free
//     cell, so that a session's last bits depend on who else is there.
//   - Flash attention is off on the CPU.
//   - Models that the library would compute wrongly are refused by [Check].
//
// ggml's CPU backend is process-global, so one lock serializes all passes of a
// process. The number of threads is not set once: spare machines are busy
// machines, and a thread that waits for a core costs more than it gives. See
// threads.go.
package engine
