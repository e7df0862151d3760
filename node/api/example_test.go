package api_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"

	"github.com/shoalnet/shoal/node/api"
)

// parrot answers a prompt with its own words, where a node would have a model.
type parrot struct{}

func (parrot) Generate(_ context.Context, req *api.GenerateRequest, emit func(api.Event) error) error {
	if err := emit(api.Event{Start: &api.Start{Name: req.Model}}); err != nil {
		return err
	}
	words := strings.Fields(req.Prompt)
	for i, w := range words {
		if err := emit(api.Event{Token: &api.Token{Index: i, Text: w + " "}}); err != nil {
			return err
		}
	}
	return emit(api.Event{Done: &api.Done{FinishReason: "stop", Tokens: len(words)}})
}

// A Client asks a node over HTTP, and is told of each token when it comes. Here
// the node's side of the API runs in the same process; Base of a node that runs is
// http://127.0.0.1:11500, and its Token is in the file api.token of its home.
func ExampleClient() {
	srv := httptest.NewServer(api.New(api.Config{Generator: parrot{}}))
	defer srv.Close()

	cl := &api.Client{Base: srv.URL}
	err := cl.Generate(context.Background(), &api.GenerateRequest{Model: "parrot", Prompt: "Once upon a time", Raw: true}, func(e api.Event) error {
		switch {
		case e.Token != nil:
			fmt.Print(e.Token.Text)
		case e.Done != nil:
			fmt.Printf("(%d tokens: %s)\n", e.Done.Tokens, e.Done.FinishReason)
		}
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output: Once upon a time (4 tokens: stop)
}
