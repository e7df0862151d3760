package placement

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A hundred nodes that come within a minute, and a model that is hot from the
// fifth to the fifteenth minute.
func TestDemandCurve(t *testing.T) {
	if testing.Short() {
		t.Skip("takes over a second")
	}
	t.Parallel()
	var out strings.Builder
	hot := func(at time.Duration) bool { return at >= 5*time.Minute && at < 15*time.Minute }
	s := newSim(t, []ModelInfo{modelA, modelB, modelC}, func(model string, at time.Duration) float64 {
		switch {
		case model == "A" && hot(at):
			return 240
		case model == "A":
			return 20
		case model == "B":
			return 40
		}
		return 30
	})
	s.out, s.nodes = &out, many(100)
	s.run(5 * time.Minute)
	before := s.capacity("A")
	s.run(7 * time.Minute)
	soon := s.capacity("A")
	s.run(15 * time.Minute)
	hottest := s.count("A")
	s.run(35 * time.Minute)
	golden(t, "demand", out.String())
	if soon < 1.5*before {
		t.Errorf("%.0f rows/s when it became hot, %.0f two minutes later", before, soon)
	}
	if n := s.count("A"); hottest < 8 || n > hottest/2 || s.copiesOf("A") < 2 {
		t.Errorf("%d servers at the end of the heat, %d twenty minutes later", hottest, n)
	}
	if s.moves > 40 {
		t.Errorf("%d moves", s.moves)
	}
}

// A node that joins a loaded network raises its throughput within a minute.
func TestJoinsLoaded(t *testing.T) {
	var out strings.Builder
	s := newSim(t, []ModelInfo{modelA}, func(string, time.Duration) float64 { return 200 })
	s.out, s.minute = &out, 20*time.Second
	s.nodes = []*simNode{
		start("n1", "A", "0-12", 3*gb, 200e9, modelA),
		start("n2", "A", "12-24", 3*gb, 180e9, modelA),
		start("n3", "A", "24-32", 3*gb, 40e9, modelA),
		{Self: Self{ID: "n4", Lent: 2 * gb, Speed: 120e9, Download: 50e6, Held: map[string][]bool{}}, from: 3 * time.Minute},
	}
	s.run(3 * time.Minute)
	before := s.capacity("A")
	s.run(4 * time.Minute)
	if after := s.capacity("A"); after < 1.5*before {
		t.Errorf("%.0f rows/s before, %.0f a minute later", before, after)
	}
	s.run(6 * time.Minute)
	golden(t, "join", out.String())
}

// All servers of a model's first blocks die at once: when their offers have
// expired, others take their places.
func TestLost(t *testing.T) {
	var out strings.Builder
	s := newSim(t, []ModelInfo{modelA, modelB}, func(string, time.Duration) float64 { return 30 })
	s.out, s.nodes = &out, many(24)
	s.run(6 * time.Minute)
	kill := func() {
		s.each("A", func(n *simNode, x *Served) {
			if x.Span.From == 0 {
				n.dies = s.now
			}
		})
	}
	kill()
	s.run(10 * time.Minute)
	if !s.whole["A"] || s.copiesOf("A") < 2 {
		t.Error("not whole again, or not twice")
	}
	s.run(15 * time.Minute)
	golden(t, "lost", out.String())
}

// Nobody is idle, and the demand goes from one model to another and back.
func TestMoves(t *testing.T) {
	var out strings.Builder
	s := newSim(t, []ModelInfo{modelB, modelC}, func(model string, at time.Duration) float64 {
		if (model == "B") == (at/(15*time.Minute)%2 == 0) {
			return 150
		}
		return 20
	})
	s.out = &out
	for i := range 6 {
		s.nodes = append(s.nodes, start(fmt.Sprint("n", i+1), "B", "0-28", 3*gb, 80e9, modelB))
	}
	s.nodes = append(s.nodes, start("n7", "C", "0-16", 3*gb, 40e9, modelC), start("n8", "C", "0-16", 3*gb, 40e9, modelC))
	s.run(60 * time.Minute)
	golden(t, "moves", out.String())
	if s.moves > 30 {
		t.Errorf("%d moves", s.moves)
	}
}

// Three peers lie that they have served all blocks for 15 minutes, whether they
// answer a probe or not: the honest node still serves after ten minutes, and an
// hour. That it would leave to others is TestLeavesToStrangers'.
func TestLiars(t *testing.T) {
	for _, lies := range []string{"mute", "answers"} {
		for _, met := range []time.Duration{time.Minute, 12 * time.Hour} {
			s := newSim(t, []ModelInfo{thirty}, func(string, time.Duration) float64 { return 0 })
			honest := start("honest", "M", "0-30", 4*gb, 1e11, thirty)
			s.nodes = []*simNode{honest}
			for i := range 3 {
				s.nodes = append(s.nodes, &simNode{Self: Self{ID: fmt.Sprint("liar", i)}, lies: lies, met: met,
					fixed: &Served{Model: "M", Span: span("0-30"), Ready: true, Loaded: true, Since: epoch.Add(-15 * time.Minute), Row: time.Microsecond}})
			}
			s.run(70 * time.Minute) // fails when a block is left
			if honest.Serving == nil || s.moves > 0 {
				t.Errorf("%s liars, met %s ago: %d moves", lies, met, s.moves)
			}
		}
	}
}

// A demand that is up and down by half or more leaves nearly all where they
// are.
func TestNoFlapping(t *testing.T) {
	if testing.Short() {
		t.Skip("takes over a second")
	}
	t.Parallel()
	s := newSim(t, []ModelInfo{modelA}, func(_ string, at time.Duration) float64 {
		return 60 + float64(order(fmt.Sprint(at/(40*time.Second)))%180)
	})
	s.nodes = many(30)
	s.run(15 * time.Minute)
	before := s.moves
	s.run(75 * time.Minute)
	if n := s.moves - before; n > 8 {
		t.Errorf("%d moves in an hour", n)
	}
}

// Nodes that have begun without knowing of each other come to spans that join.
func TestMend(t *testing.T) {
	for _, spans := range [][]string{{"0-16", "14-30"}, {"0-16", "0-16"}, {"0-10", "0-10", "0-10"}, {"0-16", "10-20", "14-30"}, {"0-4", "20-30"}, {"0-12", "10-22", "20-30"}} {
		s := newSim(t, []ModelInfo{thirty}, func(string, time.Duration) float64 { return 10 })
		for i, text := range spans {
			lent := int64(max(span(text).Len(), 30/len(spans)+1)) * 100 * mb
			s.nodes = append(s.nodes, start(fmt.Sprint("n", i), "M", text, lent, 1e11, thirty))
		}
		s.run(20 * time.Minute)
		if !s.whole["M"] || s.lastMove > 15*time.Minute {
			t.Errorf("%v: not mended; the last of %d moves after %s", spans, s.moves, s.lastMove)
			s.each("M", func(n *simNode, x *Served) { t.Log(n.ID, x.Span, n.Lent, n.Last.Reason) })
		}
	}
}
