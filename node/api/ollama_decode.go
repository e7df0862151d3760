package api

import (
	"encoding/json"
	"time"
)

// ollamaJob is a decoded request for an answer.
type ollamaJob struct {
	req    *GenerateRequest
	chat   bool
	stream bool
	load   bool           // there is no prompt: only load the model, or unload it
	kept   *time.Duration // how long it stays loaded; nil: as it is
}

func decodeOllamaChat(body []byte) (*ollamaJob, error) {
	var r ollamaChatRequest
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if err := refuseOptions(body); err != nil {
		return nil, err
	}
	g, err := r.base()
	if err != nil {
		return nil, err
	}
	j := &ollamaJob{req: g, chat: true, stream: deref(r.Stream, true), load: len(r.Messages) == 0}
	if j.kept, err = keepAlive(r.KeepAlive); err != nil || j.load {
		return j, err
	}
	if g.Tools, err = ollamaTools(r.Tools); err != nil {
		return nil, err
	}
	if g.Messages, err = ollamaMessages(r.Messages); err != nil {
		return nil, err
	}
	goOn(g)
	return j, nil
}

func decodeOllamaGenerate(body []byte) (*ollamaJob, error) {
	var r ollamaGenerateRequest
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if err := refuseOptions(body); err != nil {
		return nil, err
	}
	g, err := r.base()
	if err != nil {
		return nil, err
	}
	switch {
	case given(r.Images):
		return nil, badParam("images", "are not supported: models here read text only")
	case r.Suffix != "":
		return nil, badParam("suffix", "is not supported: the models here continue a text, and fill no gap in one")
	case r.Template != "":
		return nil, badParam("template", "is not supported: the model's own is used; send a raw prompt to go without")
	case given(r.Context):
		return nil, badParam("context", "is not supported: send the conversation to /api/chat")
	case r.Raw && r.System != "":
		return nil, badParam("system", "cannot be combined with raw")
	}
	j := &ollamaJob{req: g, stream: deref(r.Stream, true), load: r.Prompt == ""}
	if j.kept, err = keepAlive(r.KeepAlive); err != nil {
		return nil, err
	}
	if g.Raw = r.Raw; r.Raw {
		g.Prompt = r.Prompt
		return j, nil
	}
	if r.System != "" {
		g.Messages = append(g.Messages, Message{Role: "system", Content: r.System})
	}
	g.Messages = append(g.Messages, Message{Role: "user", Content: r.Prompt})
	return j, nil
}

// base returns what both kinds of request share.
func (r *ollamaCommon) base() (*GenerateRequest, error) {
	o := &r.Options
	c := commonRequest{Model: r.Model, Stop: o.Stop, Seed: o.Seed, Sampling: o.Sampling, RepeatLastN: o.RepeatLastN}
	if o.NumPredict != nil && *o.NumPredict > 0 {
		c.MaxTokens = o.NumPredict
	}
	g, err := c.base()
	if err != nil {
		return nil, err
	}
	if g.Format, err = ollamaFormat(r.Format); err != nil {
		return nil, err
	}
	g.FormatField = "format"
	if g.Think, err = ollamaThink(r.Think); err != nil {
		return nil, err
	}
	if err := within("top_logprobs", r.TopLogprobs, 0, maxTopLogprobs); err != nil {
		return nil, err
	}
	g.Sampling.Logprobs = r.Logprobs
	if r.Logprobs {
		g.Sampling.TopLogprobs = r.TopLogprobs
	}
	return g, nil
}

func ollamaFormat(raw json.RawMessage) (json.RawMessage, error) {
	switch first(raw) {
	case 0, 'n':
		return nil, nil
	case '"':
		switch word := string(plainJSON(raw)); word {
		case `""`:
			return nil, nil
		case `"json"`:
			return anyObject, nil
		}
		return nil, badParam("format", `must be "json" or a JSON schema`)
	}
	c, err := schemaOf("format", raw)
	return c.schema, err
}

func ollamaThink(raw json.RawMessage) (string, error) {
	switch first(raw) {
	case 0, 'n':
		return "", nil
	case 't':
		return "on", nil
	case 'f':
		return "off", nil
	}
	var word string
	if err := decodeAt("think", raw, &word); err != nil {
		return "", badParam("think", "must be true, false, low, medium or high")
	}
	return effort("think", word)
}
