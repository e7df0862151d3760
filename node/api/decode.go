package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/shoalnet/shoal/protocol"
)

// Limits of a request.
const (
	maxBody        = 32 << 20 // bytes
	maxChoices     = 128      // n times the number of prompts
	maxMessages    = 16384
	maxStops       = 128
	maxStop        = 1024 // bytes of a stop sequence
	maxTopLogprobs = 20

	// completionTokens is OpenAI's default of max_tokens for plain completions,
	// which rarely end by themselves. Chat has no default, nor have requests for
	// details.
	completionTokens = 16
)

// job is a decoded request: one GenerateRequest per choice, and how to answer.
type job struct {
	chat         bool
	n            int // choices per prompt that are generated
	bestOf       int // if not 0: of n choices per prompt the keep likeliest are returned
	keep         int
	ranks        bool // log probabilities are asked of the node only to rank the choices
	reqs         []*GenerateRequest
	echo         []string // per choice: the text to repeat before the answer; nil: none
	noAnswer     bool     // no token of an answer is wanted, only the prompt's own
	stream       bool
	includeUsage bool
	details      bool
	logprobs     bool
}

// decodeChat reads a body of /v1/chat/completions.
func decodeChat(body []byte) (*job, error) {
	var r chatRequest
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if err := refuse(body, chatUnsupported, chatWords, answerWords); err != nil {
		return nil, err
	}
	return r.job()
}

// job converts a chat request.
func (r *chatRequest) job() (*job, error) {
	base, err := r.base()
	if err != nil {
		return nil, err
	}
	if base.Messages, err = messages(r.Messages); err != nil {
		return nil, err
	}
	if err := r.goOn(base); err != nil {
		return nil, err
	}
	if err := r.useTools(base); err != nil {
		return nil, err
	}
	if base.Think, err = effort("reasoning_effort", r.ReasoningEffort); err != nil {
		return nil, err
	}
	if base.Prediction, err = predictedText(r.Prediction); err != nil {
		return nil, err
	}
	if on := r.ChatTemplateKwargs.EnableThinking; on != nil {
		base.Think = map[bool]string{true: "on", false: "off"}[*on]
	}
	if r.MaxCompletionTokens != nil { // the newer name takes precedence, as at OpenAI
		if base.MaxTokens, err = maxTokens("max_completion_tokens", r.MaxCompletionTokens); err != nil {
			return nil, err
		}
	}
	base.Sampling.Logprobs = r.Logprobs
	if r.TopLogprobs != nil {
		if !r.Logprobs && *r.TopLogprobs != 0 {
			return nil, badParam("top_logprobs", "needs logprobs to be true")
		}
		if err := within("top_logprobs", *r.TopLogprobs, 0, maxTopLogprobs); err != nil {
			return nil, err
		}
		base.Sampling.TopLogprobs = *r.TopLogprobs
	}
	j := &job{chat: true}
	return j, j.finish(&r.commonRequest, base, []GenerateRequest{*base})
}

// decodeCompletion reads a body of /v1/completions.
func decodeCompletion(body []byte) (*job, error) {
	var r completionRequest
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if err := refuse(body, completionUnsupported, chatAlone, answerWords); err != nil {
		return nil, err
	}
	noAnswer := r.MaxTokens != nil && *r.MaxTokens == 0
	if noAnswer {
		r.MaxTokens = new(1) // which is left out of the reply
	}
	base, err := r.base()
	if err != nil {
		return nil, err
	}
	if r.Logprobs != nil {
		if err := within("logprobs", *r.Logprobs, 0, maxTopLogprobs); err != nil {
			return nil, err
		}
		base.Sampling.Logprobs, base.Sampling.TopLogprobs = true, *r.Logprobs
	}
	if r.MaxTokens == nil && (r.Shoal == nil || !r.Shoal.Details) {
		base.MaxTokens = completionTokens
	}
	inputs, err := prompts(r.Prompt, base)
	if err != nil {
		return nil, err
	}
	j := &job{noAnswer: noAnswer}
	if err := j.chooseBest(&r, base, inputs); err != nil {
		return nil, err
	}
	if r.Echo {
		j.echoes(inputs)
	}
	return j, j.finish(&r.commonRequest, base, inputs)
}

// finish creates the choices: n per input, in the order of the inputs.
func (j *job) finish(r *commonRequest, base *GenerateRequest, inputs []GenerateRequest) error {
	n := deref(r.N, 1)
	if err := within("n", n, 1, maxChoices); err != nil {
		return err
	}
	n = max(n, j.bestOf)
	if n*len(inputs) > maxChoices {
		return badParam("n", "times the number of prompts may be %d at most, not %d: send the others in another request", maxChoices, n*len(inputs))
	}
	echo := j.echo
	j.echo = nil
	for i := range inputs {
		if n > 1 {
			inputs[i].Shared = &Shared{}
		}
		for k := range n {
			req := inputs[i]
			if seed := req.Sampling.Seed; seed != nil && k > 0 {
				req.Sampling.Seed = new(*seed + uint64(k)) // else all choices would be the same
			}
			j.reqs = append(j.reqs, &req)
			if echo != nil {
				j.echo = append(j.echo, echo[i])
			}
		}
	}
	j.n, j.stream = n, r.Stream
	if r.StreamOptions != nil {
		if !r.Stream {
			return badParam("stream_options", "needs stream to be true")
		}
		j.includeUsage = r.StreamOptions.IncludeUsage
	}
	if r.Shoal != nil && r.Shoal.Details {
		if len(j.reqs) > 1 {
			return badParam("shoal.details", "are given of one choice only: leave n out")
		}
		j.details = true
	}
	j.logprobs = base.Sampling.Logprobs && !j.ranks
	return nil
}

// base returns what all choices of a request share.
func (r *commonRequest) base() (*GenerateRequest, error) {
	g := &GenerateRequest{Model: r.Model}
	if len(r.Model) > 1024 {
		return nil, badParam("model", "is too long for a name")
	}
	var err error
	if r.MaxTokens != nil {
		if g.MaxTokens, err = maxTokens("max_tokens", r.MaxTokens); err != nil {
			return nil, err
		}
	}
	if g.Stop, err = stops(r.Stop); err != nil {
		return nil, err
	}
	if err := r.constrain(g); err != nil {
		return nil, err
	}
	if g.Sampling, err = r.sampling(); err != nil {
		return nil, err
	}
	if err := r.ending(g); err != nil {
		return nil, err
	}
	if r.Shoal != nil {
		if err := checkRoute(r.Shoal.Route); err != nil {
			return nil, err
		}
		if err := within("shoal.max_stages", r.Shoal.MaxStages, 0, protocol.MaxStages); err != nil {
			return nil, err
		}
		if len(r.Shoal.Route) > 0 {
			g.Route = r.Shoal.Route
		}
		if a := r.Shoal.Ahead; a != "" && a != "auto" && a != "off" {
			return nil, badParam("shoal.ahead", "is %q: auto and off are known", a)
		}
		g.MaxStages, g.Exact, g.Ahead = r.Shoal.MaxStages, r.Shoal.Exact, r.Shoal.Ahead
	}
	return g, nil
}

// checkRoute checks that the stages are contiguous from block 0. Whether they reach the
// last block is checked where the model is known.
func checkRoute(route []Hop) error {
	if len(route) > protocol.MaxStages {
		return badParam("shoal.route", "has %d stages: %d is the most", len(route), protocol.MaxStages)
	}
	at := 0
	for i, h := range route {
		param := fmt.Sprintf("shoal.route[%d]", i)
		switch {
		case h.Peer == "":
			return badParam(param, "names no peer")
		case h.From != at:
			return badParam(param, "starts at block %d: it must continue at block %d", h.From, at)
		case h.To <= h.From:
			return badParam(param, "is empty: to must be more than from")
		}
		at = h.To
	}
	return nil
}

// prompts returns the inputs of a completion, each a copy of base.
func prompts(raw json.RawMessage, base *GenerateRequest) ([]GenerateRequest, error) {
	const param = "prompt"
	text := func(s string) GenerateRequest {
		g := *base
		g.Raw, g.Prompt = true, s
		return g
	}
	ids := func(param string, raw json.RawMessage) (GenerateRequest, error) {
		g := *base
		g.Raw = true
		if err := decodeAt(param, raw, &g.PromptIDs); err != nil {
			return g, err
		}
		if len(g.PromptIDs) == 0 {
			return g, badParam(param, "is empty")
		}
		for i, id := range g.PromptIDs {
			if id < 0 {
				return g, badParam(fmt.Sprintf("%s[%d]", param, i), "is not a token id: %d", id)
			}
		}
		return g, nil
	}
	switch first(raw) {
	case '"':
		var s string
		if err := decodeAt(param, raw, &s); err != nil {
			return nil, err
		}
		return []GenerateRequest{text(s)}, nil
	case '[':
	case 0, 'n':
		return nil, badParam(param, "is missing")
	default:
		return nil, badParam(param, "must be a string, a list of strings, or token ids")
	}
	var list []json.RawMessage
	if err := decodeAt(param, raw, &list); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, badParam(param, "is empty")
	}
	if c := first(list[0]); c == '-' || c >= '0' && c <= '9' {
		g, err := ids(param, raw)
		return []GenerateRequest{g}, err
	}
	if len(list) > maxChoices {
		return nil, badParam(param, "holds %d prompts: %d is the most, send the others in another request", len(list), maxChoices)
	}
	var out []GenerateRequest
	for i, e := range list {
		at := fmt.Sprintf("%s[%d]", param, i)
		var g GenerateRequest
		var err error
		switch first(e) {
		case '"':
			var s string
			err = decodeAt(at, e, &s)
			g = text(s)
		case '[':
			g, err = ids(at, e)
		default:
			err = badParam(at, "must be a string or a list of token ids")
		}
		if err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}

func stops(raw json.RawMessage) ([]string, error) {
	var list []string
	switch first(raw) {
	case 0, 'n':
		return nil, nil
	case '"':
		list = make([]string, 1)
		if err := decodeAt("stop", raw, &list[0]); err != nil {
			return nil, err
		}
	case '[':
		if err := decodeAt("stop", raw, &list); err != nil {
			return nil, err
		}
	default:
		return nil, badParam("stop", "must be a string or a list of strings")
	}
	if len(list) == 0 {
		return nil, nil
	}
	if len(list) > maxStops {
		return nil, badParam("stop", "holds %d sequences: %d is the most", len(list), maxStops)
	}
	for i, s := range list {
		if len(s) > maxStop {
			return nil, badParam(fmt.Sprintf("stop[%d]", i), "is longer than %d bytes", maxStop)
		}
	}
	// Front ends send empty ones for "none".
	list = slices.DeleteFunc(list, func(s string) bool { return s == "" })
	return slices.Clip(list), nil
}

// seed accepts every 64-bit integer, signed or unsigned: OpenAI's are signed. As for
// Ollama and llama.cpp, -1 means a random one.
func seed(raw json.RawMessage) (*uint64, error) {
	if !present(raw) {
		return nil, nil
	}
	text, _ := wholeNumber(string(bytes.TrimSpace(raw)))
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		if i == -1 {
			return nil, nil
		}
		return new(uint64(i)), nil
	}
	if u, err := strconv.ParseUint(text, 10, 64); err == nil {
		return &u, nil
	}
	return nil, badParam("seed", "must be a 64-bit integer")
}

// maxTokens reads a limit; some servers use -1 for no limit.
func maxTokens(param string, v *int) (int, error) {
	if *v == -1 {
		return 0, nil
	}
	return *v, within(param, *v, 1, math.MaxInt32)
}
