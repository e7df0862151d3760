package api

import (
	"errors"
	"math"

	"github.com/shoalnet/shoal/protocol"
)

// defaultTemperature is used when the caller names none.
const defaultTemperature = 0.7

// Sampling says how an answer's tokens are drawn. Every dialect of the API has
// these fields in its requests, under these names: OpenAI's, and beyond those what
// vLLM, llama.cpp and Ollama have. Unset values are the defaults. It is checked
// once, when a request is decoded: see protocol.CheckSampling for the ranges.
type Sampling struct {
	Temperature      *float64 `json:"temperature,omitempty"`    // nil: 0.7; 0: always the likeliest token
	TopK             int      `json:"top_k,omitempty"`          // the K likeliest tokens; 0: all
	TopP             *float64 `json:"top_p,omitempty"`          // the likeliest tokens of this probability in all; nil: all; 0: the likeliest
	MinP             float64  `json:"min_p,omitempty"`          // least probability, as a part of the likeliest token's; 0: all
	RepeatPenalty    float64  `json:"repeat_penalty,omitempty"` // above 1: less of what was said; 0 and 1: off
	PresencePenalty  float64  `json:"presence_penalty,omitempty"`
	FrequencyPenalty float64  `json:"frequency_penalty,omitempty"`

	// The dialects differ in how these are written.
	Seed        *uint64 `json:"-"` // nil: random
	Logprobs    bool    `json:"-"` // report each token's log probability
	TopLogprobs int     `json:"-"` // and those of so many alternatives
}

// leastTopP is a cut that leaves the likeliest token alone. On the wire 0 means no
// cut.
const leastTopP = 1e-9

// Protocol is the sampling as stages have it. What depends on the model and the
// prompt is not set; nor is a seed if there is none.
func (s *Sampling) Protocol() *protocol.Sampling {
	p := &protocol.Sampling{
		Temperature: defaultTemperature, TopK: uint32(s.TopK), MinP: float32(s.MinP), RepeatPenalty: float32(s.RepeatPenalty),
		PresencePenalty: float32(s.PresencePenalty), FrequencyPenalty: float32(s.FrequencyPenalty),
		Seed: deref(s.Seed, 0), Logprobs: s.Logprobs, TopLogprobs: uint32(s.TopLogprobs),
	}
	if s.TopK < 0 || s.TopK > math.MaxInt32 {
		p.TopK = math.MaxUint32 // which the check refuses
	}
	if s.Temperature != nil {
		p.Temperature = float32(*s.Temperature)
	}
	if s.TopP != nil {
		if p.TopP = float32(*s.TopP); p.TopP == 0 {
			p.TopP = leastTopP
		}
	}
	return p
}

// sampling is what a request asks for.
func (r *commonRequest) sampling() (s Sampling, err error) {
	s = r.Sampling
	if s.TopK == -1 { // vLLM's word for all
		s.TopK = 0
	}
	if r.RepetitionPenalty != nil {
		s.RepeatPenalty = *r.RepetitionPenalty
	}
	if s.Seed, err = seed(r.Seed); err != nil {
		return s, err
	}
	err = protocol.CheckSampling(s.Protocol())
	var at *protocol.SamplingError
	if !errors.As(err, &at) {
		return s, err
	}
	if at.Field == "repeat_penalty" && r.RepetitionPenalty != nil {
		at.Field = "repetition_penalty"
	}
	return s, &Error{Kind: BadInput, Param: at.Field, Message: at.Error(), Err: at}
}
