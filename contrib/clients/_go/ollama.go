// Ollama's own client.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"github.com/ollama/ollama/api"
)

func client(base string) *api.Client {
	u, err := url.Parse(base)
	if err != nil {
		panic(err)
	}
	return api.NewClient(u, http.DefaultClient)
}

func asked(model, text string, n int) *api.ChatRequest {
	return &api.ChatRequest{Model: model, Messages: []api.Message{{Role: "user", Content: text}}, Options: map[string]any{"temperature": 0, "num_predict": n}}
}

// pieces returns what a chat streams.
func pieces(ctx context.Context, c *api.Client, req *api.ChatRequest) (texts []string, last api.Message, err error) {
	var calls []api.ToolCall
	err = c.Chat(ctx, req, func(r api.ChatResponse) error {
		if r.Message.Content != "" {
			texts = append(texts, r.Message.Content)
		}
		calls = append(calls, r.Message.ToolCalls...)
		return nil
	})
	return texts, api.Message{Role: "assistant", ToolCalls: calls}, err
}

var errEnough = errors.New("enough")

func main() {
	ctx, tales, agent := context.Background(), client(base), client(agentBase)
	whole := false
	run(
		testCase{"list", func() error {
			list, err := tales.List(ctx)
			if err != nil {
				return err
			}
			return check(len(list.Models) > 0 && list.Models[0].Name == model+":latest", list.Models)
		}},
		testCase{"chat", func() error {
			req := asked(model, question, tokens)
			req.Stream = &whole
			texts, _, err := pieces(ctx, tales, req)
			if err != nil || len(texts) != 1 {
				return check(false, texts, err)
			}
			return same(texts[0])
		}},
		testCase{"stream", func() error {
			texts, _, err := pieces(ctx, tales, asked(model, question, tokens))
			return errors.Join(err, streamed(texts))
		}},
		testCase{"tools", func() error {
			req := asked(agentModel, askWeather, 100)
			if err := json.Unmarshal([]byte(`[{"type":"function","function":{"name":"weather","description":"the weather","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]`), &req.Tools); err != nil {
				return err
			}
			_, message, err := pieces(ctx, agent, req)
			if err != nil || len(message.ToolCalls) != 1 {
				return check(false, message, err)
			}
			if err := oslo(message.ToolCalls[0].Function.Arguments.String()); err != nil {
				return err
			}
			req.Messages = append(req.Messages, message, api.Message{Role: "tool", ToolName: "weather", Content: "rain"})
			texts, _, err := pieces(ctx, agent, req)
			if err != nil || len(texts) != 1 {
				return check(false, texts, err)
			}
			return reported(texts[0])
		}},
		testCase{"structure", func() error {
			req := asked(model, askSum, 100)
			format, err := json.Marshal(sum)
			if err != nil {
				return err
			}
			req.Format, req.Stream = format, &whole
			texts, _, err := pieces(ctx, tales, req)
			if err != nil || len(texts) != 1 {
				return check(false, texts, err)
			}
			return summed(texts[0])
		}},
		testCase{"cancel", func() error {
			n := 0
			err := tales.Chat(ctx, asked(model, question, long), func(api.ChatResponse) error {
				if n++; n == 3 {
					return errEnough
				}
				return nil
			})
			return check(errors.Is(err, errEnough), err)
		}},
		testCase{"errors", func() error {
			_, _, err := pieces(ctx, tales, asked(nobody, question, tokens))
			var e api.StatusError
			if !errors.As(err, &e) {
				return check(false, err)
			}
			return missing(true, e.StatusCode, err)
		}},
	)
}
