// Package sample draws a token from logits.
//
// The sampler is counter-based: what it draws is a function of the logits, the
// parameters, the tokens so far and the absolute position, and of nothing else.
// A stage that takes over a session therefore goes on exactly where the lost
// one stopped, and needs no state but what it is told.
//
// It is Gumbel-max (Gumbel 1954; Maddison et al., "A* Sampling", 2014): the
// token is the argmax of logit/T + g over the candidates, g = -ln(-ln(u)), with
// u from a hash of seed, position and token ID. That draws from exactly the
// softmax over the candidates. The hash is that of the wire specification
// (protocol/README.md), so that any two implementations draw alike.
//
// Order: tokens that are not allowed are left out, then come penalties, then the
// cuts top-k, top-p and min-p on the distribution at temperature 1, then
// temperature. Cutting before the temperature (llama.cpp's order, too) keeps the
// set of candidates the same when only the temperature is changed, which is what
// people expect of a cut.
//
// The parameters are those of the wire: [protocol.Sampling] goes from a client's
// request to this package as it is, so a new parameter is read here and passes
// through everything between. Nothing here relies on their being in range: where
// they come from a peer, the stage has checked them; whatever they are, one of the
// tokens is drawn.
package sample

import (
	"math"
	"math/bits"
	"slices"

	"github.com/shoalnet/shoal/protocol"
)

// Top is an alternative.
type Top struct {
	ID      int32
	Logprob float32
}

// Token is what was drawn. Log probabilities are natural ones of the model's
// own distribution: before penalties, cuts and temperature.
type Token struct {
	ID      int32
	Logprob float32
	Top     []Top     // descending
	Labels  []float32 // log probabilities of the parameters' first reading
}

// Sample draws the token at the given absolute position. p may be nil: greedy,
// as the zero value. sampled is the answer so far; what penalties need of the
// prompt is p.History. Logits that are not numbers count as impossible, and so do
// tokens without a bit in allowed, the lowest bit of a word first; nil allows all.
func Sample(logits []float32, p *protocol.Sampling, sampled []int32, position uint64, allowed []uint64) Token {
	if len(logits) == 0 {
		return Token{}
	}
	if p == nil {
		p = &protocol.Sampling{}
	}
	z := logits
	if allowed != nil {
		z = only(logits, allowed)
	}
	if penalized(p) && len(p.History)+len(sampled) > 0 {
		if allowed == nil {
			z = slices.Clone(logits)
		}
		penalize(z, p, sampled)
	}
	id := greedy(z)
	if p.Temperature > 0 {
		id = draw(candidates(z, p), p, position, id)
	}
	t := Token{ID: id}
	if p.Logprobs || p.TopLogprobs > 0 || len(p.Readings) > 0 {
		norm := logSumExp(logits)
		t.Labels = labels(logits, p.Readings, norm)
		t.Logprob = float32(float64(logits[id]) - norm)
		if p.TopLogprobs > 0 {
			for _, i := range best(logits, int(p.TopLogprobs)) {
				t.Top = append(t.Top, Top{i, float32(float64(logits[i]) - norm)})
			}
		}
	}
	return t
}

// labels returns the log probabilities of the tokens of the first reading; nil: there is
// none. A token beyond the vocabulary is impossible.
func labels(logits []float32, readings []*protocol.Labels, norm float64) []float32 {
	if len(readings) == 0 {
		return nil
	}
	out := make([]float32, len(readings[0].GetIds()))
	for i, id := range readings[0].GetIds() {
		if out[i] = float32(math.Inf(-1)); id >= 0 && int(id) < len(logits) {
			out[i] = float32(float64(logits[id]) - norm)
		}
	}
	return out
}

// only are the logits of the tokens that are allowed; the others are impossible.
func only(logits []float32, allowed []uint64) []float32 {
	z := make([]float32, len(logits))
	for i := range z {
		z[i] = float32(math.Inf(-1))
	}
	for w, bit := range allowed {
		for ; bit != 0; bit &= bit - 1 {
			if i := w<<6 + bits.TrailingZeros64(bit); i < len(z) {
				// Where nothing else may come, even the impossible does.
				if z[i] = -math.MaxFloat32; logits[i] > z[i] {
					z[i] = logits[i]
				}
			}
		}
	}
	return z
}

func penalized(p *protocol.Sampling) bool {
	return p.RepeatPenalty != 0 && p.RepeatPenalty != 1 || p.PresencePenalty != 0 || p.FrequencyPenalty != 0
}

// penalize lowers the logits of seen tokens: repetition counts the prompt's too,
// presence and frequency only the answer's.
func penalize(z []float32, p *protocol.Sampling, sampled []int32) {
	seen, count := map[int32]bool{}, map[int32]int{}
	inside := func(id int32) bool { return id >= 0 && int(id) < len(z) }
	for _, id := range p.History {
		if inside(id) {
			seen[id] = true
		}
	}
	for _, id := range sampled {
		if inside(id) {
			seen[id] = true
			count[id]++
		}
	}
	if r := p.RepeatPenalty; r > 0 && r != 1 {
		for id := range seen {
			if z[id] > 0 {
				z[id] /= r
			} else {
				z[id] *= r
			}
		}
	}
	for id, n := range count {
		z[id] -= p.PresencePenalty + float32(n)*p.FrequencyPenalty
	}
}

// greedy is the lowest ID with the greatest logit.
func greedy(z []float32) int32 {
	at, top := 0, float32(math.Inf(-1))
	for i, v := range z {
		if v > top { // false for NaN
			at, top = i, v
		}
	}
	return int32(at)
}

func logSumExp(z []float32) float64 {
	top := float64(z[greedy(z)])
	if math.IsInf(top, 0) || math.IsNaN(top) {
		return top
	}
	sum := 0.0
	for _, v := range z {
		if v == v {
			sum += math.Exp(float64(v) - top)
		}
	}
	return top + math.Log(sum)
}

type candidate struct {
	id int32
	z  float32
}

// byLogit orders candidates by falling logit, then rising ID.
func byLogit(a, b candidate) int {
	switch {
	case a.z > b.z:
		return -1
	case a.z < b.z:
		return 1
	}
	return int(a.id - b.id)
}

// candidates that the cuts leave, in no particular order.
func candidates(z []float32, p *protocol.Sampling) []candidate {
	top := z[greedy(z)]
	floor := float32(math.Inf(-1))
	if p.MinP > 0 { // a threshold on the logit
		floor = top + float32(math.Log(float64(p.MinP)))
	}
	switch {
	case p.TopK > 0:
		c := atLeast(z, float32(math.Inf(-1)))
		if uint64(p.TopK) < uint64(len(c)) {
			c = selectBest(c, int(p.TopK))
		} else {
			slices.SortFunc(c, byLogit)
		}
		return above(nucleus(c, p.TopP, mass(c, top), top), floor)
	case p.TopP > 0 && p.TopP < 1:
		// Few candidates carry the mass: look at the best only, and at more
		// of them while it does not suffice.
		all := mass(atLeast(z, float32(math.Inf(-1))), top)
		for depth := float32(8); ; depth *= 2 {
			c := atLeast(z, top-depth)
			slices.SortFunc(c, byLogit)
			if cut := nucleus(c, p.TopP, all, top); len(cut) < len(c) || depth > 1e30 {
				return above(cut, floor)
			}
		}
	}
	return atLeast(z, floor)
}

func atLeast(z []float32, floor float32) []candidate {
	c := make([]candidate, 0, 64)
	for i, v := range z {
		if v >= floor && v > float32(math.Inf(-1)) {
			c = append(c, candidate{int32(i), v})
		}
	}
	return c
}

// above keeps those of the sorted candidates that reach floor.
func above(c []candidate, floor float32) []candidate {
	for i, x := range c {
		if x.z < floor {
			return c[:i]
		}
	}
	return c
}

func mass(c []candidate, top float32) (sum float64) {
	for _, x := range c {
		sum += math.Exp(float64(x.z - top))
	}
	return sum
}

// nucleus keeps the fewest of the sorted candidates that have a part p of the
// whole mass.
func nucleus(c []candidate, p float32, whole float64, top float32) []candidate {
	if p <= 0 || p >= 1 {
		return c
	}
	sum := 0.0
	for i, x := range c {
		if sum += math.Exp(float64(x.z - top)); sum >= float64(p)*whole {
			return c[:i+1]
		}
	}
	return c
}

// selectBest gives the k best candidates in order, by a heap of k.
func selectBest(c []candidate, k int) []candidate {
	h := c[:k:k]
	worse := func(a, b candidate) bool { return byLogit(a, b) > 0 }
	down := func(i int) {
		for {
			j := 2*i + 1
			if j >= k {
				return
			}
			if j+1 < k && worse(h[j+1], h[j]) {
				j++
			}
			if !worse(h[j], h[i]) {
				return
			}
			h[i], h[j] = h[j], h[i]
			i = j
		}
	}
	for i := k/2 - 1; i >= 0; i-- {
		down(i)
	}
	for _, x := range c[k:] {
		if worse(h[0], x) {
			h[0] = x
			down(0)
		}
	}
	slices.SortFunc(h, byLogit)
	return h
}

func best(z []float32, k int) []int32 {
	c := make([]candidate, 0, len(z))
	for i, v := range z {
		if v == v {
			c = append(c, candidate{int32(i), v})
		}
	}
	if k < len(c) {
		c = selectBest(c, k)
	} else {
		slices.SortFunc(c, byLogit)
	}
	out := make([]int32, len(c))
	for i, x := range c {
		out[i] = x.id
	}
	return out
}

func draw(c []candidate, p *protocol.Sampling, position uint64, fallback int32) int32 {
	at, top := fallback, math.Inf(-1)
	for _, x := range c {
		h := Hash(p.Seed, position, x.id) >> 11
		logit := float64(x.z) / float64(p.Temperature)
		// g <= -ln(1-u), which the number of leading ones of u bounds: most
		// candidates need no logarithm.
		if logit+math.Ln2*float64(55-bits.Len64(1<<53-h)) < top {
			continue
		}
		v := logit + gumbel(h)
		if v > top || v == top && x.id < at {
			at, top = x.id, v
		}
	}
	return at
}

// gumbel is standard Gumbel noise from the upper 53 bits of the hash: u lies
// in (0, 1).
func gumbel(hash53 uint64) float64 {
	u := (float64(hash53) + 0.5) / (1 << 53)
	return -math.Log(-math.Log(u))
}

// Hash mixes seed, position and token ID with the finalizer of SplitMix64
// (Steele, Lea and Flood, 2014), once for each.
func Hash(seed, position uint64, id int32) uint64 {
	x := mix(seed + 0x9e3779b97f4a7c15)
	x = mix(x ^ position)
	return mix(x ^ uint64(uint32(id)))
}

func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
