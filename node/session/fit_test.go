package session

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/protocol"
)

// A stage that takes over in a long answer gets what its Open has no room for
// with Resume.
func TestFitFirst(t *testing.T) {
	answer := make([]int32, 100_000)
	for i := range answer {
		answer[i] = int32(i)
	}
	for _, format := range []int{0, protocol.MaxFormat - 10} {
		for _, n := range []int{0, 100, 5000, len(answer)} {
			o := &protocol.Open{Session: make([]byte, 16), Sampling: &protocol.Sampling{Sampled: answer[:n]}}
			if format > 0 {
				o.Sampling.Format = []*protocol.Piece{{Kind: &protocol.Piece_Text{Text: string(make([]byte, format))}}}
			}
			owed := fitFirst(o)
			if got := append(slices.Clone(o.Sampling.Sampled), owed...); !slices.Equal(got, answer[:n]) {
				t.Errorf("%d tokens became %d", n, len(got))
			}
			f := &protocol.Frame{Kind: &protocol.Frame_Open{Open: o}}
			if size := proto.Size(f); size > protocol.MaxFirst || len(owed) > 0 && size < protocol.MaxFirst/2 {
				t.Errorf("a format of %d and an answer of %d: a frame of %d bytes, and %d tokens left over", format, n, size, len(owed))
			}
		}
	}
}
