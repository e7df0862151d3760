package protocol

import (
	"fmt"
	"math"
	"strconv"
)

// SamplingError is a sampling parameter that is out of its range.
type SamplingError struct {
	Field    string  // as in wire.proto, and in the HTTP API
	Min, Max float64 // the range, both ends included
}

func (e *SamplingError) Error() string {
	text := func(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
	return fmt.Sprintf("%s must lie between %s and %s", e.Field, text(e.Min), text(e.Max))
}

// CheckSampling is the one check of sampling parameters: a client asks it before
// it looks for a route, and a stage, which believes no client, when it admits a
// session. The first parameter out of its range is returned as a *SamplingError;
// too many stop tokens, or too long a history, as a plain error. Whether tokens
// are in the vocabulary is for those to check who know the model.
func CheckSampling(p *Sampling) error {
	for _, x := range []struct {
		field           string
		value, min, max float64
	}{
		{"temperature", float64(p.Temperature), 0, 100},
		{"top_k", float64(p.TopK), 0, math.MaxInt32},
		{"top_p", float64(p.TopP), 0, 1},
		{"min_p", float64(p.MinP), 0, 1},
		{"repeat_penalty", float64(p.RepeatPenalty), 0, 100},
		{"presence_penalty", float64(p.PresencePenalty), -100, 100},
		{"frequency_penalty", float64(p.FrequencyPenalty), -100, 100},
		{"top_logprobs", float64(p.TopLogprobs), 0, 64},
	} {
		if !(x.value >= x.min && x.value <= x.max) { // NaN is in no range
			return &SamplingError{x.field, x.min, x.max}
		}
	}
	if len(p.StopIds) > 1024 || len(p.History) > 4096 {
		return fmt.Errorf("%d stop tokens and a history of %d tokens: at most 1024 and 4096 are possible", len(p.StopIds), len(p.History))
	}
	if n := len(p.Scored); n > MaxScored || n > 0 && n+1 != int(p.PromptTokens) {
		return fmt.Errorf("log probabilities of %d tokens, of a prompt of %d: all but the first have one, and %d are possible", n, p.PromptTokens, MaxScored)
	}
	return nil
}
