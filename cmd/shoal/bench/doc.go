// Package bench measures this program on this machine, for `shoal bench`: the engine,
// its memory, stages, distance, load, many sessions, guesses that run ahead, and
// fetching. It knows neither flags nor the user's home: the command passes [Options] and
// a [Shell], as it passes facts to package doctor.
//
// No machine is ever fully idle, so variants take turns, with their order reversed each
// round. Results are the median with the lowest and the highest round; ratios compare
// measurements of the same round. Benchmarks of functions are next to the functions
// ([testing.B]), and `make bench-compare` compares those.
//
// Against compares the engine with llama.cpp's library by itself, in this process and
// with its own defaults: what is between them is what this program adds. Its models are
// random ones of contrib/randommodel, which compute as real ones of their shape do. On a
// busy machine the ratios of processor time say more than those of the clock.
//
// AheadAgainst compares answers over a distance with those of llama.cpp's RPC backend, whose
// programs the user has built: the same file, the same texts, the same emulated link, here
// within the nodes and there in a proxy before each RPC server. Programs are compared one
// after the other, not in turns: each holds the whole model.
//
// Code that only serves as a comparison, and is not part of a node, is here, too: folder
// plain has boxo's unmodified bitswap.
package bench
