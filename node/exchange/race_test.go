//go:build race

package exchange

// underRace reports that the race detector is on.
const underRace = true
