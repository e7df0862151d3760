package exchange

import (
	"testing"
)

// How fast things are on this machine, which no test asserts: it may be busy.

// limited is a holder of a whole model with a slow uplink.
func limited(t testing.TB, path string, up float64) *node {
	t.Helper()
	n := newHolder(t, newHost(t, overTCP), path, nil)
	n.x.Close()
	n.x = New(n.s, Options{Leaves: shelves(n.s), Up: up}, Net{Host: n.h, Find: &roster{}})
	t.Cleanup(func() { n.x.Close() })
	return n
}

// Ten nodes that pull from one seed share: it takes them little longer than one.
func BenchmarkTenFromASeed(b *testing.B) {
	path := writeModel(b, 6, 6<<20)
	const up = 100e6 / 8
	for b.Loop() {
		one := pull(b, 1, path, limited(b, path, up), false)
		seed := limited(b, path, up)
		ten := pull(b, 10, path, seed, false)
		b.ReportMetric(ten.Seconds()/one.Seconds(), "ten/one")
		b.ReportMetric(float64(seed.given())/float64(seed.m.Manifest().Size()), "models/seed")
	}
}

// With an origin besides, each leaf comes from it about once, for all ten; with a
// seed and without. TestSlowSwarm bounds that in virtual time.
func BenchmarkTenAndAnOrigin(b *testing.B) {
	path := writeModel(b, 6, 6<<20)
	for _, how := range []string{"a seed", "no seed"} {
		b.Run(how, func(b *testing.B) {
			for b.Loop() {
				o := serve(b, path, nil)
				var seed *node
				if how == "a seed" {
					seed = limited(b, path, 20e6/8)
				}
				took := pull(b, 10, path, seed, seed == nil, o.origin(b))
				bytes, requests := o.asked()
				b.ReportMetric(took.Seconds(), "s/swarm")
				b.ReportMetric(float64(bytes)/float64(o.origin(b).Size), "files/origin")
				b.ReportMetric(float64(requests), "requests/origin")
			}
		})
	}
}
