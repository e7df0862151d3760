package protocol

import (
	"errors"
	"math"
	"testing"
)

// TestCheckSampling: the ends of every range are in it, and what lies beyond is
// refused by its name.
func TestCheckSampling(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, ok := range []*Sampling{
		{},
		{Temperature: 100, TopK: math.MaxInt32, TopP: 1, MinP: 1, RepeatPenalty: 100, PresencePenalty: 100, FrequencyPenalty: 100, TopLogprobs: 64},
		{PresencePenalty: -100, FrequencyPenalty: -100, StopIds: make([]int32, 1024), History: make([]int32, 4096)},
	} {
		if err := CheckSampling(ok); err != nil {
			t.Errorf("%v: %v", ok, err)
		}
	}
	for field, bad := range map[string][]*Sampling{
		"temperature":       {{Temperature: -0.1}, {Temperature: 101}, {Temperature: nan}, {Temperature: inf}},
		"top_k":             {{TopK: math.MaxInt32 + 1}},
		"top_p":             {{TopP: -0.1}, {TopP: 1.1}, {TopP: nan}},
		"min_p":             {{MinP: -0.1}, {MinP: 1.1}, {MinP: nan}},
		"repeat_penalty":    {{RepeatPenalty: -1}, {RepeatPenalty: 101}, {RepeatPenalty: inf}},
		"presence_penalty":  {{PresencePenalty: -101}, {PresencePenalty: nan}},
		"frequency_penalty": {{FrequencyPenalty: 101}, {FrequencyPenalty: inf}},
		"top_logprobs":      {{TopLogprobs: 65}},
	} {
		for _, p := range bad {
			var at *SamplingError
			if err := CheckSampling(p); !errors.As(err, &at) || at.Field != field {
				t.Errorf("%v: %v, want %s at fault", p, err, field)
			}
		}
	}
	for _, p := range []*Sampling{{StopIds: make([]int32, 1025)}, {History: make([]int32, 4097)}} {
		if CheckSampling(p) == nil {
			t.Errorf("%d stop tokens, a history of %d", len(p.StopIds), len(p.History))
		}
	}
	if got := (&SamplingError{"top_k", 0, math.MaxInt32}).Error(); got != "top_k must lie between 0 and 2147483647" {
		t.Error(got)
	}
}
