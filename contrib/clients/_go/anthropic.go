// Anthropic's own client.
package main

import (
	"context"
	"errors"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

func client(base string) anthropic.Client {
	return anthropic.NewClient(option.WithBaseURL(base), option.WithAPIKey("none"), option.WithMaxRetries(0))
}

func asked(model, text string, n int64) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: anthropic.Model(model), MaxTokens: n, Temperature: anthropic.Float(0),
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text))},
	}
}

func offered(name string, schema map[string]any) []anthropic.ToolUnionParam {
	return []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{Name: name, InputSchema: anthropic.ToolInputSchemaParam{
		Properties: schema["properties"], Required: []string{schema["required"].([]any)[0].(string)},
	}}}}
}

func main() {
	ctx, tales, agent := context.Background(), client(base), client(agentBase)
	run(
		testCase{"list", func() error {
			page, err := tales.Models.List(ctx, anthropic.ModelListParams{})
			if err != nil {
				return err
			}
			return check(len(page.Data) > 0 && page.Data[0].ID == model, page.Data)
		}},
		testCase{"chat", func() error {
			answer, err := tales.Messages.New(ctx, asked(model, question, tokens))
			if err != nil {
				return err
			}
			return same(answer.Content[0].Text)
		}},
		testCase{"stream", func() error {
			var pieces []string
			stream := tales.Messages.NewStreaming(ctx, asked(model, question, tokens))
			for stream.Next() {
				if e, ok := stream.Current().AsAny().(anthropic.ContentBlockDeltaEvent); ok && e.Delta.Text != "" {
					pieces = append(pieces, e.Delta.Text)
				}
			}
			return errors.Join(stream.Err(), streamed(pieces))
		}},
		testCase{"tools", func() error {
			p := asked(agentModel, askWeather, 100)
			p.Tools = offered("weather", weather)
			answer, err := agent.Messages.New(ctx, p)
			if err != nil {
				return err
			}
			call := answer.Content[0]
			if err := oslo(string(call.Input)); err != nil {
				return err
			}
			p.Messages = append(p.Messages, answer.ToParam(), anthropic.NewUserMessage(anthropic.NewToolResultBlock(call.ID, "rain", false)))
			if answer, err = agent.Messages.New(ctx, p); err != nil {
				return err
			}
			return reported(answer.Content[0].Text)
		}},
		testCase{"structure", func() error {
			p := asked(model, askSum, 100)
			p.Tools = offered("sum", sum)
			p.ToolChoice = anthropic.ToolChoiceParamOfTool("sum")
			answer, err := tales.Messages.New(ctx, p)
			if err != nil {
				return err
			}
			return summed(string(answer.Content[0].Input))
		}},
		testCase{"cancel", func() error {
			stream := tales.Messages.NewStreaming(ctx, asked(model, question, long))
			for range 6 {
				stream.Next()
			}
			return errors.Join(stream.Err(), stream.Close())
		}},
		testCase{"errors", func() error {
			_, err := tales.Messages.New(ctx, asked(nobody, question, tokens))
			var e *anthropic.Error
			if !errors.As(err, &e) {
				return check(false, err)
			}
			return missing(true, e.StatusCode, err)
		}},
	)
}
