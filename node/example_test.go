//go:build cgo

package node_test

import (
	"context"
	"fmt"
	"os"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine/ggml"
)

// A whole node in this process: it serves all of a tiny model, and answers a prompt
// with it. It listens on loopback alone, and looks for no peers.
func ExampleNew() {
	home, err := os.MkdirTemp("", "node")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(home)
	n, err := node.New(node.Config{
		Home:        home,
		ListenAddrs: []string{"/ip4/127.0.0.1/udp/0/quic-v1"},
		NoMDNS:      true,
		Serve:       []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}},
		Engine:      ggml.Load, // no process for the engine
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()

	if err := n.Ready(ctx); err != nil {
		fmt.Println(err)
	}
	err = n.Client().Generate(ctx, &api.GenerateRequest{Raw: true, Prompt: "Once upon a time", MaxTokens: 8}, func(e api.Event) error {
		switch {
		case e.Start != nil:
			fmt.Println("the answer comes from", e.Start.Name)
		case e.Done != nil:
			fmt.Println("it has", e.Done.Tokens, "tokens and ended because of its", e.Done.FinishReason)
		}
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	stop()
	if err := <-ended; err != nil {
		fmt.Println(err)
	}
	if err := n.Close(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// the answer comes from tinytales
	// it has 8 tokens and ended because of its length
}
