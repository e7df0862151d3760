package node_test

import (
	"slices"
	"testing"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
)

// The choices of a prompt share its tokens: who comes later reads none of his own.
func TestPromptOnce(t *testing.T) {
	n, _ := start(t, node.Config{Serve: []node.ServeSpec{{Model: "tinytales", Span: "all"}}}, true)
	shared := &api.Shared{}
	var read [][]int32
	for _, text := range []string{"Once upon a time", "another that is never looked at"} {
		req := api.GenerateRequest{Model: "tinytales", Raw: true, Prompt: text, MaxTokens: 2, Shared: shared}
		if err := n.Generator().Generate(t.Context(), &req, func(e api.Event) error {
			if e.Start != nil {
				read = append(read, e.Start.PromptTokens)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if len(read) != 2 || len(read[0]) == 0 || !slices.Equal(read[0], read[1]) {
		t.Errorf("read %v", read)
	}
}
