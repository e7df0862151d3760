package ahead_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/ahead"
)

// BenchmarkStep is what a final token costs stage 0, guesses included; that of "random"
// is what it costs where there is nothing to guess.
func BenchmarkStep(b *testing.B) {
	rng := rand.New(rand.NewPCG(2, 2))
	few := random(rng, 100_000, 4) // each run of tokens has occurred thousands of times
	for _, bench := range []struct {
		name string
		text simText
	}{
		{"random", simText{prompt: random(rng, 100_000, 1<<20), answer: random(rng, 10_000, 1<<20)}},
		{"few tokens", simText{prompt: few, answer: random(rng, 10_000, 4)}},
		{"copy", simText{prompt: few, answer: few[50_000:60_000]}},
		{"edited", func() simText { s := corrupted(rng, 10_000, 0.8); s.prompt = few; return s }()},
	} {
		b.Run(bench.name, func(b *testing.B) {
			m := ahead.Measures{Trip: 100 * time.Millisecond, RowUs: 1000}
			var r *ahead.Runner
			for i := range b.N {
				if i%len(bench.text.answer) == 0 {
					b.StopTimer()
					r = ahead.New(ahead.Config{MaxInFlight: ahead.MaxInFlight, Trials: ahead.NewTrials(1)})
					r.Prompt(bench.text.prompt)
					r.Expect(bench.text.expected)
					b.StartTimer()
				}
				now := clock(float64(i))
				r.Token(bench.text.answer[i%len(bench.text.answer)], now, m)
				for {
					if _, ok := r.Next(now, false); !ok {
						break
					}
				}
			}
		})
	}
}
