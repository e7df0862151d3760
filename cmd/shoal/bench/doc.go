// Package bench measures this program on this machine, for `shoal bench`: the engine,
// stages, distance, load, many sessions, and fetching. It knows neither flags nor
// the user's home: the command gives it [Options] and a [Shell], as it gives facts
// to package doctor.
//
// Machines are never quite idle. Variants are measured in turns, each round in the
// other order, and what is shown is the median with the lowest and the highest
// round. A ratio is one of measurements of the same round. Benchmarks of functions
// are beside the functions ([testing.B]), and `make bench-compare` compares those.
//
// What is compared with, and no part of a node, is here, too: folder plain has
// bitswap as boxo makes it.
package bench
