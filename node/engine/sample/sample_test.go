package sample

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/protocol"
)

func randomLogits(rng *rand.Rand, n int) []float32 {
	z := make([]float32, n)
	for i := range z {
		z[i] = float32(rng.NormFloat64() * 3)
	}
	return z
}

// The draws must follow the softmax of the logits at the temperature.
func TestDistribution(t *testing.T) {
	z := []float32{1, 0, -1, 2, 0.5}
	for _, temperature := range []float32{0.5, 1, 2} {
		var sum float64
		want := make([]float64, len(z))
		for i, v := range z {
			want[i] = math.Exp(float64(v / temperature))
			sum += want[i]
		}
		const n = 200_000
		got := make([]float64, len(z))
		for pos := range uint64(n) {
			got[Sample(z, &protocol.Sampling{Temperature: temperature, Seed: 42}, nil, pos, nil).ID]++
		}
		chi := 0.0
		for i := range z {
			e := want[i] / sum * n
			chi += (got[i] - e) * (got[i] - e) / e
		}
		if chi > 18.5 { // 0.1 % at 4 degrees of freedom
			t.Errorf("temperature %g: chi-square %.1f", temperature, chi)
		}
	}
}

// Vectors for other implementations: protocol/README.md.
func TestVectors(t *testing.T) {
	for _, c := range []struct {
		seed, pos uint64
		id        int32
		want      uint64
	}{{0, 0, 0, 0x80abe802ac1e182e}, {42, 7, 100, 0x909440ff0371913d}, {1 << 63, 1 << 40, 151_000, 0x47f89de7f293de3c}} {
		if got := Hash(c.seed, c.pos, c.id); got != c.want {
			t.Errorf("Hash(%d, %d, %d) = %#x, want %#x", c.seed, c.pos, c.id, got, c.want)
		}
	}
}

// Each cut against the plainest way to say it.
func TestCuts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		z := randomLogits(rng, 1+rng.IntN(60))
		p := &protocol.Sampling{Temperature: 1, TopK: uint32(rng.IntN(8)), TopP: float32(rng.IntN(3)) * 0.4, MinP: float32(rng.IntN(2)) * 0.1}
		order := make([]candidate, len(z))
		for i, v := range z {
			order[i] = candidate{int32(i), v}
		}
		slices.SortFunc(order, byLogit)
		prob := func(x candidate) float64 { return math.Exp(float64(x.z - order[0].z)) }
		keep := order
		if p.TopK > 0 {
			keep = keep[:min(int(p.TopK), len(keep))]
		}
		if p.TopP > 0 && p.TopP < 1 {
			total, mass := 0.0, 0.0
			for _, x := range keep {
				total += prob(x)
			}
			for i, x := range keep {
				if mass += prob(x); mass >= float64(p.TopP)*total {
					keep = keep[:i+1]
					break
				}
			}
		}
		if p.MinP > 0 {
			keep = slices.DeleteFunc(slices.Clone(keep), func(x candidate) bool { return prob(x) < float64(p.MinP)*(1-1e-6) })
		}
		got := candidates(z, p)
		slices.SortFunc(got, byLogit)
		if !slices.Equal(got, keep) {
			t.Fatalf("%v of %v: %v, want %v", p, z, got, keep)
		}
	}
}

func TestPenalties(t *testing.T) {
	z := []float32{2, 1.9, -1}
	if got := Sample(z, &protocol.Sampling{RepeatPenalty: 2}, []int32{0}, 0, nil).ID; got != 1 {
		t.Errorf("repetition: %d", got)
	}
	if got := Sample(z, &protocol.Sampling{PresencePenalty: 1, History: []int32{0}}, nil, 0, nil).ID; got != 0 {
		t.Errorf("presence counts the answer only: %d", got)
	}
	if got := Sample(z, &protocol.Sampling{FrequencyPenalty: 0.06}, []int32{0, 0}, 0, nil).ID; got != 1 {
		t.Errorf("frequency: %d", got)
	}
	if tok := Sample(z, &protocol.Sampling{RepeatPenalty: 2, TopLogprobs: 3}, []int32{0}, 0, nil); tok.Top[0].ID != 0 || tok.Logprob != tok.Top[1].Logprob {
		t.Errorf("log probabilities are the model's own: %+v", tok)
	}
	if z[0] != 2 {
		t.Error("the caller's logits were changed")
	}
}

// TestAllowed: what may not come is as if it were impossible, and log
// probabilities stay the model's.
func TestAllowed(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, p := range []*protocol.Sampling{{}, {Temperature: 1.3}, {Temperature: 1, TopK: 5}, {Temperature: 1, TopP: 0.8}, {Temperature: 0.7, MinP: 0.1}, {Temperature: 1, RepeatPenalty: 1.2, FrequencyPenalty: 0.1}} {
		for pos := range uint64(200) {
			z, masked := make([]float32, 130), make([]float32, 130)
			allowed := make([]uint64, 3)
			for i := range z {
				z[i] = float32(rng.NormFloat64() * 3)
				if masked[i] = float32(math.Inf(-1)); i == 7 || rng.IntN(3) == 0 {
					masked[i] = z[i]
					allowed[i>>6] |= 1 << (i & 63)
				}
			}
			p.Seed, p.Logprobs = pos*3, true
			got, want := Sample(z, p, []int32{3, 7}, pos, allowed), Sample(masked, p, []int32{3, 7}, pos, nil)
			if got.ID != want.ID {
				t.Fatalf("%v: drew %d, want %d", p, got.ID, want.ID)
			}
			if free := Sample(z, &protocol.Sampling{TopLogprobs: 130}, nil, pos, nil); got.Logprob != free.Top[slices.IndexFunc(free.Top, func(x Top) bool { return x.ID == got.ID })].Logprob {
				t.Fatal("the log probability is another one than the model's")
			}
		}
	}
}

func FuzzSample(f *testing.F) {
	f.Add([]byte{1, 2, 3, 255, 127, 0}, float32(1), uint32(3), float32(0.5), float32(0.1), uint64(3))
	f.Fuzz(func(t *testing.T, raw []byte, temperature float32, k uint32, p, minP float32, seed uint64) {
		z := make([]float32, len(raw))
		for i, b := range raw {
			switch b {
			case 255:
				z[i] = float32(math.NaN())
			case 254:
				z[i] = float32(math.Inf(1))
			case 253:
				z[i] = float32(math.Inf(-1))
			default:
				z[i] = float32(b) - 100
			}
		}
		par := &protocol.Sampling{Temperature: temperature, TopK: k, TopP: p, MinP: minP, Seed: seed, TopLogprobs: 4}
		tok := Sample(z, par, []int32{0, 5, -1, 1 << 30}, 1, nil)
		if len(z) > 0 && (tok.ID < 0 || int(tok.ID) >= len(z)) {
			t.Fatalf("drew %d of %d", tok.ID, len(z))
		}
		if len(z) == 0 {
			return
		}
		allowed := make([]uint64, (len(z)+63)/64)
		for i := range z {
			if i == int(k)%len(z) || seed>>(i%64)&1 != 0 {
				allowed[i>>6] |= 1 << (i & 63)
			}
		}
		if id := Sample(z, par, nil, 1, allowed).ID; allowed[id>>6]>>(id&63)&1 == 0 {
			t.Fatalf("drew %d, which may not come", id)
		}
	})
}

func BenchmarkSample(b *testing.B) {
	z := randomLogits(rand.New(rand.NewPCG(1, 1)), 150_000)
	for name, p := range map[string]*protocol.Sampling{
		"greedy": {}, "temperature": {Temperature: 0.8}, "top-k": {Temperature: 0.8, TopK: 40, TopP: 0.9}, "top-p": {Temperature: 0.8, TopP: 0.9},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				Sample(z, p, nil, 7, nil)
			}
		})
	}
}

// A reading has the log probabilities of its labels among all tokens, whatever is drawn.
func TestLabels(t *testing.T) {
	z := []float32{1, 3, float32(math.NaN()), 2, -1}
	p := &protocol.Sampling{Readings: []*protocol.Labels{{Ids: []int32{3, 0, 3, 5, -1}}, {Ids: []int32{1}}}}
	got := Sample(z, p, nil, 0, nil)
	norm := math.Log(math.Exp(1) + math.Exp(3) + math.Exp(2) + math.Exp(-1))
	want := []float64{2 - norm, 1 - norm, 2 - norm, math.Inf(-1), math.Inf(-1)}
	if got.ID != 1 || len(got.Labels) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i, w := range want {
		if g := float64(got.Labels[i]); g != w && math.Abs(g-w) > 1e-6 {
			t.Errorf("label %d: %v, want %v", i, g, w)
		}
	}
	if got := Sample(z, nil, nil, 0, nil); got.Labels != nil {
		t.Errorf("labels that were not asked for: %v", got.Labels)
	}
}
