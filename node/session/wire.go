package session

import (
	"math"

	"github.com/shoalnet/shoal/protocol"
)

// chooseCodec asks the stage that an Open is for to choose how it sends on the first rows
// of the session, those of the prompt, if the request allows it. Where the choice for that
// link has been made before, it stays: what is computed again after a repair is computed
// from the same numbers.
func (s *session) chooseCodec(o *protocol.Open, rows int) {
	if s.req.SlowestRow <= 0 || o.Stages < 2 {
		return
	}
	o.PromptRows = uint32(rows)
	if c, ok := s.codecs[o.To]; ok {
		o.PromptCodec = c
		return
	}
	o.SlowestUs = uint32(max(1, min(s.req.SlowestRow.Microseconds(), math.MaxUint32)))
}

// keepCodecs records what the stages of the first route have chosen, by the block before
// which a link is.
func (s *session) keepCodecs() {
	s.codecs = map[uint32]protocol.TensorCodec{}
	for _, g := range s.stages {
		s.codecs[uint32(g.hop.Span.To)] = g.promptIn
	}
}

// promptIn returns the codec in which a stage sends a prompt's rows on, as it says. Older
// versions say nothing, and know one codec for all rows.
func promptIn(o *protocol.Open, said *protocol.Opened) protocol.TensorCodec {
	switch {
	case o.Sampling != nil, protocol.TensorCodec_name[int32(said.PromptCodec)] == "":
		return protocol.TensorCodec_TENSOR_CODEC_F32
	case o.PromptRows == 0:
		return o.Codec
	}
	return said.PromptCodec
}
