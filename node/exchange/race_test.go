//go:build race

package exchange

// underRace says that the race detector is on.
const underRace = true
