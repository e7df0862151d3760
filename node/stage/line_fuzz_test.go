package stage_test

import (
	"flag"
	"math"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/protocol"
)

// lines puts what a script says into the fields of frames that are about guesses.
func lines(s *script, f *protocol.Frame) {
	key := func() []byte { return make([]byte, pick(s, 16, 16, 0, 15)) }
	switch k := f.Kind.(type) {
	case *protocol.Frame_Open:
		k.Open.TagKey = key()
	case *protocol.Frame_Resume:
		k.Resume.TagKey = key()
	case *protocol.Frame_Step:
		st := k.Step
		st.Line, st.Settled, st.Guesses = pick[uint32](s, 0, 1, 2, 3, math.MaxUint32), s.number(), s.number()
		st.RowUs, st.PriceUs, st.Busy, st.Floor = s.number(), s.number(), s.number(), s.number()
		st.MaxInFlight, st.Expected = s.number(), s.tokens(s.number())
		switch s.next() % 4 {
		case 0:
			st.Tag = uint64(s.next())
		case 1: // a right guess of a small token
			st.Tag = protocol.GuessTag(make([]byte, protocol.TagKeySize), st.Epoch, st.Line, st.Base, int32(s.next()%4))
		}
	}
}

// FuzzLines is FuzzStageMachine with what frames say of guesses.
func FuzzLines(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "100x")
	dir := f.TempDir()
	on := func(stream byte, frame ...byte) []byte { return append([]byte{24 + 8*stream + 4}, frame...) }
	wait := func(centis byte) []byte { return []byte{24 + 1, centis} }
	open := func(half, prev byte) []byte {
		return []byte{0, half, 0, 0, 0, 1 - half, 0, 1, 4, 3, 0, 0, 0, prev, 0, 0, 0, 0}
	}
	// Rows for the second half: epoch 1, base, 1 row of activations; then line, settled and guesses, four sums, no
	// tokens expected, a tag.
	row := func(base, line, tag byte) []byte {
		return slices.Concat([]byte{3, 1, 0, base, 0, 0, 0}, make([]byte, 129), []byte{line, 1, 1, 1, 1, 1, 1, 0, 0, 0, tag, 3})
	}
	link := []byte{2, 0, 0, 1}
	f.Add(slices.Concat([]byte{0}, on(0, open(1, 1)...), on(1, link...), on(1, row(0, 0, 2)...), wait(2), on(1, row(1, 0, 0)...), wait(2), on(1, row(1, 1, 2)...), wait(6)))
	f.Add(slices.Concat([]byte{0}, on(0, open(1, 1)...), on(1, link...), on(1, row(0, 0, 2)...), on(1, row(1, 0, 1)...), on(1, row(0, 4, 2)...), wait(6)))
	f.Add(slices.Concat([]byte{0}, on(0, open(0, 0)...), on(0, []byte{3, 1, 0, 0, 0, 0, 1, 7, 0, 0, 0, 0, 0, 0, 0, 4, 2, 1, 2, 2}...), wait(20), on(0, 9, 0)))
	f.Fuzz(func(t *testing.T, raw []byte) { amid(t, dir, raw, lines) })
}
