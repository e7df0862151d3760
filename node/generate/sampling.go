package generate

import (
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/protocol"
)

// defaultTemperature is used if the caller names none.
const defaultTemperature = 0.7

// sampling returns the caller's parameters as stages take them.
func sampling(p *api.Sampling) *protocol.Sampling {
	s := &protocol.Sampling{
		Temperature: defaultTemperature, TopK: uint32(p.TopK), TopP: float32(p.TopP), MinP: float32(p.MinP),
		RepeatPenalty: float32(p.RepeatPenalty), PresencePenalty: float32(p.PresencePenalty), FrequencyPenalty: float32(p.FrequencyPenalty),
		Logprobs: p.Logprobs, TopLogprobs: uint32(p.TopLogprobs),
	}
	if p.Temperature != nil {
		s.Temperature = float32(*p.Temperature)
	}
	return s
}
