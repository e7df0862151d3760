// Package random makes small models of random weights, one or more for each
// architecture that llama.cpp's library computes, for tests.
//
// The library itself says which tensors a model of an architecture has: it creates
// them from metadata alone (llama_model_init_from_user). So this package has only a
// table of metadata (archs.go), of its own making; what it draws for a tensor depends
// on the tensor's name and shape alone, so that a model is the same on every machine.
//
// The files are written here, not by the library's own llama_model_save_to_file: that
// ends the process for some architectures, among them Gemma 3n, Apertus and Step 3.5,
// and loses keys of others.
//
// The package opens the library by itself, beside node/engine/llama, which it is there
// to test: [Answer] is the library's own answer, to compare with.
package random
