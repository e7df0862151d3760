// OpenAI's own client, at /v1/chat/completions.
package main

import (
	"context"
	"errors"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"
)

func client(base string) openai.Client {
	return openai.NewClient(option.WithBaseURL(base+"/v1"), option.WithAPIKey("none"), option.WithMaxRetries(0))
}

func asked(model, text string, n int64) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)},
		Temperature: openai.Float(0), MaxTokens: openai.Int(n),
	}
}

func main() {
	ctx, tales, agent := context.Background(), client(base), client(agentBase)
	run(
		testCase{"list", func() error {
			page, err := tales.Models.List(ctx)
			if err != nil {
				return err
			}
			return check(len(page.Data) > 0 && page.Data[0].ID == model, page.Data)
		}},
		testCase{"chat", func() error {
			answer, err := tales.Chat.Completions.New(ctx, asked(model, question, tokens))
			if err != nil {
				return err
			}
			return same(answer.Choices[0].Message.Content)
		}},
		testCase{"stream", func() error {
			var pieces []string
			stream := tales.Chat.Completions.NewStreaming(ctx, asked(model, question, tokens))
			for stream.Next() {
				for _, c := range stream.Current().Choices {
					if c.Delta.Content != "" {
						pieces = append(pieces, c.Delta.Content)
					}
				}
			}
			return errors.Join(stream.Err(), streamed(pieces))
		}},
		testCase{"tools", func() error {
			p := asked(agentModel, askWeather, 100)
			p.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{Name: "weather", Parameters: weather})}
			answer, err := agent.Chat.Completions.New(ctx, p)
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
			p.Messages = append(p.Messages, message.ToParam(), openai.ToolMessage("rain", call.ID))
			if answer, err = agent.Chat.Completions.New(ctx, p); err != nil {
				return err
			}
			return reported(answer.Choices[0].Message.Content)
		}},
		testCase{"structure", func() error {
			p := asked(model, askSum, 100)
			p.ResponseFormat = openai.ChatCompletionNewParamsResponseFormatUnion{OfJSONSchema: &shared.ResponseFormatJSONSchemaParam{
				JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{Name: "sum", Strict: openai.Bool(true), Schema: sum},
			}}
			answer, err := tales.Chat.Completions.New(ctx, p)
			if err != nil {
				return err
			}
			return summed(answer.Choices[0].Message.Content)
		}},
		testCase{"cancel", func() error {
			stream := tales.Chat.Completions.NewStreaming(ctx, asked(model, question, long))
			for range 3 {
				stream.Next()
			}
			return errors.Join(stream.Err(), stream.Close())
		}},
		testCase{"errors", func() error {
			_, err := tales.Chat.Completions.New(ctx, asked(nobody, question, tokens))
			var e *openai.Error
			own := errors.As(err, &e)
			return missing(own && e.Code == "model_not_found", e.StatusCode, err)
		}},
	)
}
