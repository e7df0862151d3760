package api

import (
	"errors"
	"math"

	"github.com/shoalnet/shoal/protocol"
)

// defaultTemperature is used when the caller names none.
const defaultTemperature = 0.7

// Sampling holds the sampling parameters of an answer. Every dialect of the API has these
// fields in its requests, under these names: OpenAI's, and those that vLLM, llama.cpp and
// Ollama add. Unset fields mean the defaults. The values are checked once, when a request
// is decoded: see protocol.CheckSampling for the ranges.
type Sampling struct {
	Temperature      *float64 `json:"temperature,omitempty"`    // nil: 0.7; 0: always the most likely token
	TopK             int      `json:"top_k,omitempty"`          // only the K most likely tokens; 0: all
	TopP             *float64 `json:"top_p,omitempty"`          // only the most likely tokens with this total probability; nil: all; 0: one token
	MinP             float64  `json:"min_p,omitempty"`          // minimum probability, as a fraction of the most likely token's; 0: all
	RepeatPenalty    float64  `json:"repeat_penalty,omitempty"` // above 1: tokens that occurred become less likely; 0 and 1: off
	PresencePenalty  float64  `json:"presence_penalty,omitempty"`
	FrequencyPenalty float64  `json:"frequency_penalty,omitempty"`

	// The dialects differ in how these are written.
	Seed        *uint64 `json:"-"` // nil: random
	Logprobs    bool    `json:"-"` // report each token's log probability
	TopLogprobs int     `json:"-"` // and those of this many alternatives
}

// leastTopP keeps only the most likely token. On the wire 0 means that top-p is off.
const leastTopP = 1e-9

// Protocol returns the sampling in the protocol's form. Fields that depend on the model
// and the prompt are not set, nor is the seed if s has none.
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

// sampling returns a request's sampling parameters.
func (r *commonRequest) sampling() (s Sampling, err error) {
	s = r.Sampling
	if s.TopK == -1 { // vLLM's value for all
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
