package testnet_test

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/link"
)

// Three nodes, 40 ms apart, of which one is lost and comes back. It is not run
// with the tests, since it needs the program that `make` builds.
func ExampleStart() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	t, err := testnet.Start(ctx, testnet.Config{
		Binary: "bin/shoal", Nodes: 3, Link: link.Params{RTT: 40 * time.Millisecond}, Log: os.Stderr,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	if err := t.WaitReady(ctx, nil); err != nil {
		log.Print(err)
		return
	}
	code, err := t.Exec(ctx, []string{"bin/shoal", "prompt", "Once upon a time"})
	log.Printf("exit code %d, %v", code, err)

	if err := t.Kill("node2"); err != nil {
		log.Print(err)
		return
	}
	if err := t.Restart(ctx, "node2"); err != nil {
		log.Print(err)
	}
}
