package ahead_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/shoalnet/shoal/node/ahead"
	"github.com/shoalnet/shoal/node/ahead/texts"
)

const most = 900 // tokens of an answer

// kind is texts of a kind as tokens.
type kind struct {
	name  string
	texts []simText
}

var kinds = sync.OnceValue(func() (out []kind) {
	all := texts.All(most)
	v := texts.NewVocabulary(all)
	for _, k := range all {
		one := kind{name: k.Name}
		for _, t := range k.Texts {
			answer := v.Tokens(t.Answer)
			one.texts = append(one.texts, simText{v.Tokens(t.Prompt), v.Tokens(t.Expected), answer[:min(len(answer), most)]})
		}
		out = append(out, one)
	}
	return out
})

func random(rng *rand.Rand, n int, alphabet int32) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = rng.Int32N(alphabet)
	}
	return out
}

// corrupted is a text whose expectation has each token right with a chance of a: guesses
// from it are those of an oracle that is right so often.
func corrupted(rng *rand.Rand, n int, a float64) simText {
	text := simText{answer: random(rng, n, 1<<30)}
	for _, y := range text.answer {
		if rng.Float64() >= a {
			y = rng.Int32N(1 << 30)
		}
		text.expected = append(text.expected, y)
	}
	return text
}

// perSecond runs one session per text, one after the other, and returns the tokens per
// second of all together and their guesses.
func perSecond(s setting, cfg ahead.Config, all ...simText) (float64, ahead.Counts) {
	tokens, ms, total := 0, 0.0, ahead.Counts{}
	for i, text := range all {
		s.seed = uint64(i)
		r := newRing(s)
		one := r.add(text, cfg)
		r.run(0)
		tokens += one.tokens - 1 // the first comes with the prompt
		ms += one.done - one.start
		total.Sent, total.Kept, total.Wrong = total.Sent+one.total.Sent, total.Kept+one.total.Kept, total.Wrong+one.total.Wrong
	}
	return float64(tokens) / ms * 1e3, total
}

var rings = []setting{
	{stages: 3, rtt: 80, pass: 1, more: 0.2, jitter: 0.2},
	{stages: 3, rtt: 80, pass: 20, more: 0.2, jitter: 0.2},
	{stages: 3, rtt: 20, pass: 5, more: 0.2, jitter: 0.2},
	{stages: 3, rtt: 0.2, pass: 5, more: 0.2, jitter: 0.2},
	{stages: 2, rtt: 80, pass: 1, more: 0.2, wire: 6.5, jitter: 0.2},
}

// TestTexts: answers that repeat something come sooner, and none comes later.
func TestTexts(t *testing.T) {
	wants := map[string][]float64{ // of the first three rings
		"file": {13.8, 5, 5}, "prediction": {13.8, 5, 5}, "diff": {2.5, 2, 2}, "quotes": {1.8, 1.6, 1.6}, "json": {2.2, 1.9, 1.9}, "other-file": {1.3, 1.25, 1.25},
	}
	for i, s := range rings {
		logs, n := 0.0, 0.0
		for _, k := range kinds() {
			plain, none := perSecond(s, ahead.Config{}, k.texts...)
			fast, c := perSecond(s, ahead.Config{MaxInFlight: ahead.MaxInFlight}, k.texts...)
			ratio, want := fast/plain, 0.99
			if w := wants[k.name]; i < len(w) {
				want = w[i]
			}
			tokens := float64(len(k.texts) * most)
			t.Logf("%v: %16s %5.1f -> %5.1f tokens/s, %5.2f times; guesses per token: %.2f sent, %.2f kept", s, k.name, plain, fast, ratio, float64(c.Sent)/tokens, float64(c.Kept)/tokens)
			switch {
			case ratio < want:
				t.Errorf("%v: %s is %.2f times as fast as without guesses, want %.2f", s, k.name, ratio, want)
			case none != ahead.Counts{}:
				t.Errorf("%v: %s: with no guess allowed there are %+v", s, k.name, none)
			case k.name == "random" && c.Sent > 0:
				t.Errorf("%v: %d guesses, where nothing matches", s, c.Sent)
			case k.name == "prose" && float64(c.Sent) > tokens:
				t.Errorf("%v: %d guesses for %v tokens of prose", s, c.Sent, tokens)
			}
			if k.texts[0].expected == nil {
				logs, n = logs+math.Log(ratio), n+1
			}
		}
		if mean := math.Exp(logs / n); i < 1 && mean < 2 || i < 3 && mean < 1.7 {
			t.Errorf("%v: the geometric mean of the ratios is %.2f", s, mean)
		}
	}
}

// TestLaw: a token takes the trip if its guess was wrong, and the slowest stage's time per
// row if it was right.
func TestLaw(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, a := range []float64{0, 0.5, 0.7, 0.85, 1} {
		text := corrupted(rng, 1000, a)
		for _, stages := range []int{2, 3, 5} {
			for _, rtt := range []float64{20, 40, 80} {
				for _, pass := range []float64{1, 20} {
					s := setting{stages: stages, rtt: rtt, pass: pass, more: 0.2, jitter: 0.03}
					got, _ := perSecond(s, ahead.Config{MaxInFlight: ahead.MaxInFlight}, text)
					want := 1e3 / ((1-a)*s.ideal() + a*pass)
					if a == 1 {
						want = min(1e3*ahead.MaxInFlight/s.ideal(), 1e3/pass)
					}
					if got < 0.85*want {
						t.Errorf("%v, %v of the guesses right: %.1f tokens/s, want %.1f", s, a, got, want)
					}
				}
			}
		}
	}
}

// TestMany: sessions that repeat nothing are hardly slowed down by those that do, and all
// together are not slower than without guesses.
func TestMany(t *testing.T) {
	all := map[string][]simText{}
	for _, k := range kinds() {
		all[k.name] = k.texts
	}
	for _, c := range []struct {
		pass, more float64
		sessions   int
		late       float64
	}{{1, 0.05, 16, 1.05}, {20, 0.05, 16, 1.05}, {20, 0.05, 64, 1.05}, {20, 0.2, 16, 1.05}, {20, 0.5, 16, 1.1}, {20, 0.5, 64, 1.05}} {
		s := setting{stages: 3, rtt: 80, pass: c.pass, more: c.more, jitter: 0.2}
		plain, before := crowd(s, c.sessions, 0, all["file"], all["prose"])
		fast, after := crowd(s, c.sessions, ahead.MaxInFlight, all["file"], all["prose"])
		t.Logf("%v, %d sessions: %.1f -> %.1f tokens/s, %.2f times; p95 of the others %.0f -> %.0f ms, %.2f times", s, c.sessions, plain, fast, fast/plain, before, after, after/before)
		if fast < 0.98*plain {
			t.Errorf("%v, %d sessions: %.1f tokens/s, %.1f without guesses", s, c.sessions, fast, plain)
		}
		if after > c.late*before {
			t.Errorf("%v, %d sessions: others wait %.1f ms for a token, %.1f without guesses", s, c.sessions, after, before)
		}
	}
}

// crowd runs n sessions for a minute, the even ones of texts a and the others of b. It
// returns tokens per second of all, and the 95th percentile of the milliseconds between two
// tokens of the others.
func crowd(s setting, n, inFlight int, a, b []simText) (perSecond, p95 float64) {
	const ms = 60_000
	r := newRing(s)
	trials := ahead.NewTrials(1)
	for i := range n {
		text := a[i/2%len(a)]
		if i%2 == 1 {
			text = b[i/2%len(b)]
		}
		r.add(text, ahead.Config{MaxInFlight: inFlight, Trials: trials}).repeat = true
	}
	r.run(ms)
	tokens := 0
	var gaps []float64
	for i, one := range r.runs {
		tokens += one.tokens
		if i%2 == 1 {
			gaps = append(gaps, one.gaps...)
		}
	}
	slices.Sort(gaps)
	return float64(tokens) / ms * 1e3, gaps[len(gaps)*95/100]
}

// TestAlone: one session on slow stages gains, although it keeps them busy.
func TestAlone(t *testing.T) {
	for _, k := range kinds() {
		if k.name != "file" {
			continue
		}
		s := rings[1]
		cfg := ahead.Config{MaxInFlight: ahead.MaxInFlight, Trials: ahead.NewTrials(1)}
		plain, _ := perSecond(s, ahead.Config{}, k.texts...)
		if fast, _ := perSecond(s, cfg, k.texts...); fast < 4.5*plain {
			t.Errorf("%.1f tokens/s, %.1f without guesses", fast, plain)
		}
	}
}

// TestNarrow: over a link of 20 Mbit/s, where a row of 16 KiB takes 6.55 ms, guesses are
// worth it, and no true row waits for more than the row that is on its way and the one
// that was computed before it.
func TestNarrow(t *testing.T) {
	s := setting{stages: 3, rtt: 80, pass: 1, more: 0.2, wire: 6.55, jitter: 0.03}
	r := newRing(s)
	one := r.add(corrupted(rand.New(rand.NewPCG(3, 3)), 1500, 0.7), ahead.Config{MaxInFlight: ahead.MaxInFlight})
	r.run(0)
	if got := float64(one.tokens-1) / (one.done - one.start) * 1e3; got < 18 {
		t.Errorf("%.1f tokens/s, want 18", got)
	}
	if r.waited > 2*s.wire+s.pass {
		t.Errorf("a true row waited %.1f ms for the first link", r.waited)
	}
}

// TestSlowDrafter: hints that take 40 ms each gain what their share of right ones allows,
// and cost nothing if there are none, or only wrong ones. A drafter that is too slow for the
// ring, or wrong too often, is hardly asked.
func TestSlowDrafter(t *testing.T) {
	for _, c := range []struct {
		drafter
		want  float64 // of plain
		least float64 // guesses per token that it is asked for
		most  float64
	}{
		{drafter{a: 0.735, takes: 40}, 1.7, 0.9, 4},
		{drafter{a: 0.735, takes: 10}, 2.5, 0.9, 14},
		{drafter{a: 0.735, takes: 40, dies: 100}, 0.99, 0.05, 1.2}, // it costs nothing now
		{drafter{a: 0, takes: 40}, 0.99, 0.01, 0.4},
		{drafter{a: 0.1, takes: 40}, 0.99, 0.01, 0.7},
		{drafter{a: 0.9, takes: 110}, 0.99, 0, 0},
		{drafter{a: 0.9, takes: 500}, 0.99, 0, 0},
	} {
		rng := rand.New(rand.NewPCG(4, 4))
		text := simText{answer: random(rng, 1500, 1<<30)}
		s := setting{stages: 3, rtt: 80, pass: 1, more: 0.2, jitter: 0.03}
		r := newRing(s)
		one := r.add(text, ahead.Config{MaxInFlight: ahead.MaxInFlight})
		c.rng, c.of = rng, one
		one.hints = &c.drafter
		r.run(0)
		got, asked := float64(one.tokens-1)/(one.done-one.start)*s.ideal(), float64(c.asked)/float64(one.tokens)
		t.Logf("a drafter that is right %v times and takes %v ms: %.2f times plain, asked for %.2f guesses per token", c.a, c.takes, got, asked)
		if got < c.want {
			t.Errorf("a drafter that is right %v times and takes %v ms: %.2f times plain, want %.2f", c.a, c.takes, got, c.want)
		}
		if asked < c.least || asked > c.most {
			t.Errorf("a drafter that is right %v times and takes %v ms is asked for %.2f guesses per token", c.a, c.takes, asked)
		}
	}
}

// TestDrafterOfCopies: a drafter that is much slower than what the tables guess does not
// slow copies down.
func TestDrafterOfCopies(t *testing.T) {
	for _, k := range kinds() {
		if k.name != "file" {
			continue
		}
		s := rings[0]
		r := newRing(s)
		one := r.add(k.texts[0], ahead.Config{MaxInFlight: ahead.MaxInFlight})
		one.hints = &drafter{rng: rand.New(rand.NewPCG(5, 5)), of: one, a: 0.735, takes: 40}
		r.run(0)
		alone, _ := perSecond(s, ahead.Config{MaxInFlight: ahead.MaxInFlight}, k.texts[0])
		got, asked := float64(one.tokens-1)/(one.done-one.start)*1e3, float64(one.hints.asked)/float64(one.tokens)
		if t.Logf("%.1f tokens/s with a drafter, %.1f without; asked for %.2f guesses per token", got, alone, asked); got < 0.97*alone || asked > 1 {
			t.Errorf("%.1f tokens/s with a drafter that is asked for %.2f guesses per token, %.1f without", got, asked, alone)
		}
	}
}
