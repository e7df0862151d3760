package stage

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// A prompt is sent on in the most exact codec that does not keep the slowest stage
// waiting, over links whose rate is known.
func TestPromptCodec(t *testing.T) {
	const (
		width = 4096      // a row takes 16384, 8192 or 4352 bytes
		rate  = 2_500_000 // bytes per second: 6.55, 3.28 or 1.74 ms
		next  = peer.ID("next")
	)
	synctest.Test(t, func(t *testing.T) {
		s := &Stage{cfg: Config{Width: width, Blocks: 4, Span: protocol.Span{To: 2}}, rates: map[peer.ID]linkRate{}}
		chosen := func(to peer.ID, us uint32) protocol.TensorCodec {
			return s.promptCodec(&protocol.Open{PromptRows: 9, SlowestUs: us, Next: &protocol.Hop{Peer: []byte(to)}}, time.Now())
		}
		const f32, f16, q8 = protocol.TensorCodec_TENSOR_CODEC_F32, protocol.TensorCodec_TENSOR_CODEC_F16, protocol.TensorCodec_TENSOR_CODEC_Q8_0
		if c := chosen(next, 1); c != f32 {
			t.Errorf("over a link of unknown rate: %s", c)
		}
		for range 20 {
			s.wroteChunk(next, rate/10, 100*time.Millisecond)
		}
		for us, want := range map[uint32]protocol.TensorCodec{0: f32, 1: q8, 3200: q8, 3300: f16, 6500: f16, 6600: f32, 1e9: f32} {
			if c := chosen(next, us); c != want {
				t.Errorf("with %d microseconds per row: %s, want %s", us, c, want)
			}
		}
		if c := chosen("another", 1); c != f32 {
			t.Errorf("over another link: %s", c)
		}
		if s.cfg.Width = width + 4; chosen(next, 1) != f16 {
			t.Error("Q8_0 for rows of no whole blocks")
		}
		for range 40 { // it has become faster
			s.wroteChunk(next, rate, 100*time.Millisecond)
		}
		if c := chosen(next, 800); c != f32 {
			t.Errorf("over a link that has become faster: %s", c)
		}
		time.Sleep(rateFor + time.Second)
		if c := chosen(next, 1); c != f32 {
			t.Errorf("by a rate measured long ago: %s", c)
		}
		for i := range 2 * mostRates {
			s.wroteChunk(peer.ID(fmt.Sprint(i)), 1, time.Second)
			time.Sleep(time.Second)
		}
		if _, ok := s.rates[peer.ID(fmt.Sprint(2*mostRates-1))]; !ok || len(s.rates) > mostRates {
			t.Errorf("%d rates are kept, the latest: %v", len(s.rates), ok)
		}
	})
}
