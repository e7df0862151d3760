// LangChainGo, at /v1/chat/completions.
package main

import (
	"context"
	"errors"
	"strings"

	"github.com/tmc/langchaingo/llms"
	"github.com/tmc/langchaingo/llms/openai"
)

func client(base, model string, more ...openai.Option) *openai.LLM {
	llm, err := openai.New(append(more, openai.WithBaseURL(base+"/v1"), openai.WithToken("none"), openai.WithModel(model))...)
	if err != nil {
		panic(err)
	}
	return llm
}

func said(text string) []llms.MessageContent {
	return []llms.MessageContent{llms.TextParts(llms.ChatMessageTypeHuman, text)}
}

var errEnough = errors.New("enough")

func main() {
	ctx := context.Background()
	cold := llms.WithTemperature(0)
	run(
		testCase{"chat", func() error {
			answer, err := client(base, model).GenerateContent(ctx, said(question), cold, llms.WithMaxTokens(tokens))
			if err != nil {
				return err
			}
			return same(answer.Choices[0].Content)
		}},
		testCase{"stream", func() error {
			var pieces []string
			_, err := client(base, model).GenerateContent(ctx, said(question), cold, llms.WithMaxTokens(tokens), llms.WithStreamingFunc(func(_ context.Context, piece []byte) error {
				if len(piece) > 0 {
					pieces = append(pieces, string(piece))
				}
				return nil
			}))
			return errors.Join(err, streamed(pieces))
		}},
		testCase{"tools", func() error {
			agent, messages := client(agentBase, agentModel), said(askWeather)
			tools := llms.WithTools([]llms.Tool{{Type: "function", Function: &llms.FunctionDefinition{Name: "weather", Parameters: weather}}})
			answer, err := agent.GenerateContent(ctx, messages, tools)
			if err != nil {
				return err
			}
			call := answer.Choices[0].ToolCalls[0]
			if err := oslo(call.FunctionCall.Arguments); err != nil {
				return err
			}
			messages = append(messages,
				llms.MessageContent{Role: llms.ChatMessageTypeAI, Parts: []llms.ContentPart{call}},
				llms.MessageContent{Role: llms.ChatMessageTypeTool, Parts: []llms.ContentPart{llms.ToolCallResponse{ToolCallID: call.ID, Name: "weather", Content: "rain"}}})
			if answer, err = agent.GenerateContent(ctx, messages, tools); err != nil {
				return err
			}
			return reported(answer.Choices[0].Content)
		}},
		testCase{"structure", func() error {
			format := &openai.ResponseFormat{Type: "json_schema", JSONSchema: &openai.ResponseFormatJSONSchema{Name: "sum", Strict: true,
				Schema: &openai.ResponseFormatJSONSchemaProperty{Type: "object", Required: []string{"sum"},
					Properties: map[string]*openai.ResponseFormatJSONSchemaProperty{"sum": {Type: "integer", Enum: []any{1, 2, 3, 4, 5}}}}}}
			answer, err := client(base, model, openai.WithResponseFormat(format)).GenerateContent(ctx, said(askSum), cold, llms.WithMaxTokens(100))
			if err != nil {
				return err
			}
			return summed(answer.Choices[0].Content)
		}},
		testCase{"cancel", func() error {
			n := 0
			_, err := client(base, model).GenerateContent(ctx, said(question), cold, llms.WithMaxTokens(long), llms.WithStreamingFunc(func(context.Context, []byte) error {
				if n++; n == 3 {
					return errEnough
				}
				return nil
			}))
			return check(errors.Is(err, errEnough), err)
		}},
		testCase{"errors", func() error {
			_, err := client(base, nobody).GenerateContent(ctx, said(question))
			return check(err != nil && strings.Contains(err.Error(), nobody), err)
		}},
	)
}
