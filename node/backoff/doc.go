// Package backoff spaces retries.
//
// A [Backoff] doubles its pause from First to Most, and draws each pause at random
// from the upper half of what it has come to ("equal jitter"): nodes that were cut
// off in the same instant, as by a power cut, do not come back in step, and none
// comes back at once. Full jitter, from zero on, would spread them further, but a
// loop whose pause may be zero asks a source that has just failed without giving
// it any time, and the pauses here are short enough to be spread by half.
//
// [Backoff.Reset] starts over after a success. Which errors are worth another try,
// and until when, is the caller's decision: the loops that use this differ in
// nothing as much as in that.
package backoff
