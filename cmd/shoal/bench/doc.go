// Package bench measures this program on this machine, for `shoal bench`: the engine,
// its memory, stages, distance, load, many sessions, and fetching. It knows neither flags nor the
// user's home: the command passes [Options] and a [Shell], as it passes facts to package
// doctor.
//
// No machine is ever fully idle, so variants take turns, with their order reversed each
// round. Results are the median with the lowest and the highest round; ratios compare
// measurements of the same round. Benchmarks of functions are next to the functions
// ([testing.B]), and `make bench-compare` compares those.
//
// Code that only serves as a comparison, and is not part of a node, is here, too: folder
// plain has boxo's unmodified bitswap.
package bench
