package api

import (
	"slices"
	"strings"
)

// Completions may repeat their prompt (echo), with the log probabilities of its tokens,
// and without any answer (max_tokens 0): so programs that compare given texts use it.

// echoes has the prompts repeated before their answers. Of token IDs only the node
// knows the text: it is in Start.Prompt.
func (j *job) echoes(inputs []GenerateRequest) {
	for i := range inputs {
		in := &inputs[i]
		in.PromptLogprobs = in.Sampling.Logprobs || in.PromptIDs != nil
		j.echo = append(j.echo, in.Prompt)
	}
}

// echoed is the text to repeat before a choice's answer.
func (a *answer) echoed(i int) string {
	if a.reqs[i].PromptIDs == nil {
		return a.echo[i]
	}
	var raw []byte
	for _, t := range a.choices[i].start.Prompt {
		if len(t.Bytes) > 0 {
			raw = append(raw, t.Bytes...)
		} else {
			raw = append(raw, t.Text...)
		}
	}
	return strings.ToValidUTF8(string(raw), "\uFFFD")
}

// scored are the tokens of a choice's prompt, if their log probabilities were asked for.
func (a *answer) scored(i int) []Token {
	if a.echo == nil || !a.logprobs {
		return nil
	}
	tokens := slices.Clone(a.choices[i].start.Prompt)
	if len(tokens) > 0 {
		tokens[0].first = true
	}
	return tokens
}

// withoutAnswer leaves the answer out of an event; nil: nothing is left.
func withoutAnswer(e Event) *Event {
	switch {
	case e.Token != nil, e.Repair != nil:
		return nil
	case e.Done != nil:
		done := *e.Done
		done.Text, done.Reasoning, done.Calls, done.Tokens, done.FinishReason = "", "", nil, 0, "length"
		return &Event{Done: &done}
	}
	return &e
}

// promptLogprobs are the log probabilities in a stream's first chunk; nil: none.
func (a *answer) promptLogprobs(i int) any {
	if tokens := a.scored(i); tokens != nil {
		return a.logprobsOf(i, tokens)
	}
	return nil
}
