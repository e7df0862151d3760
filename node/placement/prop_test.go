package placement

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

func randomModels(rng *rand.Rand) (list []ModelInfo) {
	for i := range 1 + rng.IntN(3) {
		list = append(list, ModelInfo{ID: string(rune('A' + i)), Blocks: 1 + rng.IntN(40), BlockBytes: (20 + rng.Int64N(130)) * mb,
			EmbedBytes: rng.Int64N(400) * mb, HeadBytes: rng.Int64N(400) * mb, KVBytes: 4096, KVTokens: 2048})
	}
	return list
}

func randomSpan(rng *rand.Rand, blocks int) protocol.Span {
	// Few ends, so that spans join now and then.
	ends := []int{0, blocks / 4, blocks / 3, blocks / 2, 2 * blocks / 3, blocks}
	for {
		if s := (protocol.Span{From: ends[rng.IntN(6)], To: ends[rng.IntN(6)]}); s.Valid(blocks) {
			return s
		}
	}
}

func TestMissing(t *testing.T) {
	for spans, want := range map[string]string{
		"": "0-30", "0-10 20-30": "10-20", "10-20": "0-10, 20-30", "0-16 12-30": "0-12", "0-16 14-30": "16-30",
		"0-10 8-20 10-20 20-30": "", "0-10 8-20 20-30": "0-8", "0-30 3-5": "",
	} {
		var list []protocol.Span
		for _, text := range strings.Fields(spans) {
			list = append(list, span(text))
		}
		if got := listed((*protocol.Cuts)(nil).Missing(30, list)); got != want {
			t.Errorf("%s: %s, want %s", spans, got, want)
		}
	}
}

// If everyone acted at once on the same offers, and none of those who go to
// serve something else ever did, no block would be uncovered, and no model
// broken that was whole.
func TestNeverUncovers(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	left := 0
	networks := 3000
	if testing.Short() {
		networks = 500
	}
	for range networks {
		models := randomModels(rng)
		var peers []Peer
		now := epoch.Add(time.Hour)
		for i := range 1 + rng.IntN(25) {
			p := Peer{ID: fmt.Sprint("n", i), Expires: now.Add(time.Duration(rng.IntN(10)-1) * time.Minute), Lent: rng.Int64N(5 * gb), Trusted: true}
			m := models[rng.IntN(len(models))]
			if rng.IntN(5) > 0 {
				p.Serves = []Served{{Model: m.ID, Span: randomSpan(rng, m.Blocks), Ready: rng.IntN(6) > 0, Loaded: rng.IntN(2) > 0, Auto: rng.IntN(6) > 0,
					Since: now.Add(-time.Duration(rng.IntN(600)) * time.Second), Row: time.Duration(1+rng.IntN(3000)) * time.Microsecond,
					Load: rng.Float64() * float64(rng.IntN(2)), LoadLong: rng.Float64() * float64(rng.IntN(2)), Refused: rng.Float64() * float64(rng.IntN(2))}}
			}
			peers = append(peers, p)
		}
		before, after := map[string][]protocol.Span{}, map[string][]protocol.Span{}
		for _, p := range peers {
			for _, s := range p.Serves {
				if !s.Ready || !now.Before(p.Expires) {
					continue
				}
				before[s.Model] = append(before[s.Model], s.Span)
				if s.Auto {
					self := Self{ID: p.ID, Lent: p.Lent, Serving: &s}
					if d := DefaultRules().Decide(now, self, peers, models); d.Action != Stay {
						left++
						continue
					}
				}
				after[s.Model] = append(after[s.Model], s.Span)
			}
		}
		for _, m := range models {
			if len(m.Cuts.Missing(m.Blocks, before[m.ID])) > 0 {
				continue // may be mended, see TestMend
			}
			if gaps := m.Cuts.Missing(m.Blocks, after[m.ID]); len(gaps) > 0 {
				t.Fatalf("blocks %s of %s are left: %v, then %v", listed(gaps), m.ID, before[m.ID], after[m.ID])
			}
		}
	}
	if left < networks/3 {
		t.Errorf("only %d left: the test is weak", left)
	}
}

// seeds is how many random networks a test tries: SHOAL_SEEDS, or as many as told,
// of which -short tries two.
func seeds(t *testing.T, usual int) int {
	t.Helper()
	text := os.Getenv("SHOAL_SEEDS")
	if text == "" && testing.Short() {
		return 2
	}
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("SHOAL_SEEDS=%q is no number of networks", text)
	}
	return n
}

// Random networks in virtual time, with offers on their way for seconds. The
// simulation itself fails when a model that was whole is not. Under a constant
// demand all come to rest.
func TestComesToRest(t *testing.T) {
	t.Parallel()
	for seed := range seeds(t, 8) {
		rng := rand.New(rand.NewPCG(uint64(seed), 7))
		models := randomModels(rng)
		demand := map[string]float64{}
		for _, m := range models {
			demand[m.ID] = rng.Float64() * rng.Float64() * []float64{100, 1000, 5000}[seed%3]
		}
		s := newSim(t, models, func(model string, _ time.Duration) float64 { return demand[model] })
		s.rules.Copies = 1 + seed%2
		for i := range 2 + rng.IntN(30) {
			n := &simNode{from: time.Duration(rng.IntN(100)) * time.Second, Self: Self{ID: fmt.Sprint("n", i), Lent: gb/2 + rng.Int64N(6*gb),
				Speed: 2e10 + 2e11*rng.Float64(), Download: 1e7 + 1e8*rng.Float64(), Held: map[string][]bool{}}}
			if m := models[rng.IntN(len(models))]; rng.IntN(6) == 0 {
				n.fixed = &Served{Model: m.ID, Span: randomSpan(rng, m.Blocks), Loaded: true, Since: epoch, Row: time.Millisecond}
			}
			s.nodes = append(s.nodes, n)
		}
		s.run(40 * time.Minute)
		if s.lastMove > 25*time.Minute || s.moves > 4*len(s.nodes) {
			t.Errorf("seed %d: %d nodes made %d moves, the last after %s, with %v", seed, len(s.nodes), s.moves, s.lastMove, demand)
		}
	}
}
