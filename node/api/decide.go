package api

import (
	"context"
	"math"
	"net/http"
)

// Decider answers questions by the probabilities of given answers. It is safe for
// concurrent use.
type Decider interface {
	// Decide returns the probabilities of each question's labels, in the order of the
	// questions. The Kind of the error is NoText if the model generates no text, BadInput
	// if a label is not one token where its answers begin, and else one of Generator's.
	Decide(ctx context.Context, req *DecideRequest) (*DecideResult, error)
}

// DecideRequest asks questions of a chat model. Those that begin alike share that part of
// the work, most if they stand in an order in which neighbours have most in common.
type DecideRequest struct {
	Model     string // "": the only one there is
	Questions []DecideQuestion
	Variables map[string]any // of the chat template, besides those that turn reasoning off
	Alone     bool           // the work is shared with no other request
	Prompts   bool           // asks for DecideRead.PromptIDs
	Route     []Hop          // as in GenerateRequest, like the next three
	MaxStages int
	Exact     bool
	Trace     string
}

// DecideQuestion is a message to the model, and the texts with one of which its answer may
// begin.
type DecideQuestion struct {
	Name   string // by which errors call it
	System string // "": none
	User   string
	Labels []string // protocol.MaxLabels at most
}

// DecideResult is the answer to a DecideRequest.
type DecideResult struct {
	Model   string // CID
	Name    string
	Reads   []DecideRead // one per question
	Cached  int          // tokens that were not computed, as an earlier request had them
	Route   []Hop        // the last one
	Warning string       // which model was chosen if the request's name was ambiguous
}

// Count returns the tokens of all prompts, each counted as a whole.
func (r *DecideResult) Count() (n int) {
	for _, one := range r.Reads {
		n += one.PromptTokens
	}
	return n
}

// DecideRead is what a model would say to one question.
type DecideRead struct {
	Logprobs     []float64 // natural logarithms of the labels' probabilities, among all tokens
	TopIsLabel   bool      // the most probable token of all is a label
	PromptTokens int
	PromptIDs    []int32 // the prompt's tokens, if asked for
	LabelIDs     []int32 // the labels' tokens
}

// shares returns the probabilities of the labels among themselves, at a temperature.
func (r *DecideRead) shares(temperature float64) []float64 {
	top := math.Inf(-1)
	for _, p := range r.Logprobs {
		top = max(top, p)
	}
	out, sum := make([]float64, len(r.Logprobs)), 0.0
	for i, p := range r.Logprobs {
		if out[i] = math.Exp((p - top) / temperature); math.IsInf(top, -1) { // all are impossible, and equally so
			out[i] = 1
		}
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// mass returns the labels' probability together, among all tokens.
func (r *DecideRead) mass() (sum float64) {
	for _, p := range r.Logprobs {
		sum += math.Exp(p)
	}
	return sum
}

// likeliest returns the index of the greatest number, of equals the first.
func likeliest(shares []float64) (at int) {
	for i, p := range shares {
		if p > shares[at] {
			at = i
		}
	}
	return at
}

// expected returns the mean of 0, 1, 2, ... with these probabilities.
func expected(shares []float64) (sum float64) {
	for i, p := range shares {
		sum += float64(i) * p
	}
	return sum
}

// decide answers questions within the limits of the caller. A panic in it becomes an error.
func (s *server) decide(w http.ResponseWriter, r *http.Request, req *DecideRequest, more *Extension) (out *DecideResult, err error) {
	if s.Decider == nil {
		return nil, Errorf(NotFound, "this node answers no such questions")
	}
	if more != nil {
		if err := checkRoute(more.Route); err != nil {
			return nil, err
		}
		req.Route, req.MaxStages, req.Exact = more.Route, more.MaxStages, more.Exact
	}
	req.Trace = r.Header.Get(traceHeader)
	err = s.limited(r, "answering questions", &req.Model, func() (name string, prompt int, err error) {
		if out, err = s.Decider.Decide(r.Context(), req); err != nil {
			return "", 0, err
		}
		return out.Name, out.Count(), nil
	})
	if err == nil {
		(&Start{Route: out.Route, Warning: out.Warning}).head(w.Header())
	}
	return out, err
}
