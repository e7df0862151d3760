// sashabaranov's client for OpenAI's API.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/sashabaranov/go-openai"
)

func client(base string) *openai.Client {
	conf := openai.DefaultConfig("none")
	conf.BaseURL = base + "/v1"
	return openai.NewClientWithConfig(conf)
}

func asked(model, text string, n int) openai.ChatCompletionRequest {
	return openai.ChatCompletionRequest{Model: model, MaxTokens: n, Messages: []openai.ChatCompletionMessage{{Role: "user", Content: text}}, Temperature: 1e-30}
}

func main() {
	ctx, tales, agent := context.Background(), client(base), client(agentBase)
	run(
		testCase{"list", func() error {
			list, err := tales.ListModels(ctx)
			if err != nil {
				return err
			}
			return check(len(list.Models) > 0 && list.Models[0].ID == model, list.Models)
		}},
		testCase{"chat", func() error {
			answer, err := tales.CreateChatCompletion(ctx, asked(model, question, tokens))
			if err != nil {
				return err
			}
			return same(answer.Choices[0].Message.Content)
		}},
		testCase{"stream", func() error {
			stream, err := tales.CreateChatCompletionStream(ctx, asked(model, question, tokens))
			if err != nil {
				return err
			}
			defer stream.Close()
			var pieces []string
			for {
				chunk, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return streamed(pieces)
				}
				if err != nil {
					return err
				}
				for _, c := range chunk.Choices {
					if c.Delta.Content != "" {
						pieces = append(pieces, c.Delta.Content)
					}
				}
			}
		}},
		testCase{"tools", func() error {
			p := asked(agentModel, askWeather, 100)
			p.Tools = []openai.Tool{{Type: openai.ToolTypeFunction, Function: &openai.FunctionDefinition{Name: "weather", Parameters: weather}}}
			answer, err := agent.CreateChatCompletion(ctx, p)
			if err != nil {
				return err
			}
			message := answer.Choices[0].Message
			if len(message.ToolCalls) != 1 {
				return check(false, message)
			}
			call := message.ToolCalls[0]
			if err := oslo(call.Function.Arguments); err != nil {
				return err
			}
			p.Messages = append(p.Messages, message, openai.ChatCompletionMessage{Role: "tool", ToolCallID: call.ID, Content: "rain"})
			if answer, err = agent.CreateChatCompletion(ctx, p); err != nil {
				return err
			}
			return reported(answer.Choices[0].Message.Content)
		}},
		testCase{"structure", func() error {
			p := asked(model, askSum, 100)
			schema, err := json.Marshal(sum)
			if err != nil {
				return err
			}
			p.ResponseFormat = &openai.ChatCompletionResponseFormat{Type: openai.ChatCompletionResponseFormatTypeJSONSchema,
				JSONSchema: &openai.ChatCompletionResponseFormatJSONSchema{Name: "sum", Strict: true, Schema: json.RawMessage(schema)}}
			answer, err := tales.CreateChatCompletion(ctx, p)
			if err != nil {
				return err
			}
			return summed(answer.Choices[0].Message.Content)
		}},
		testCase{"cancel", func() error {
			stream, err := tales.CreateChatCompletionStream(ctx, asked(model, question, long))
			if err != nil {
				return err
			}
			for range 3 {
				if _, err := stream.Recv(); err != nil {
					return err
				}
			}
			return stream.Close()
		}},
		testCase{"errors", func() error {
			_, err := tales.CreateChatCompletion(ctx, asked(nobody, question, tokens))
			var e *openai.APIError
			if !errors.As(err, &e) {
				return check(false, err)
			}
			return missing(true, e.HTTPStatusCode, err)
		}},
	)
}
