package route_test

import (
	"fmt"
	"time"

	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/protocol"
)

// distances between peers, by their names in order.
type distances map[[2]string]time.Duration

func (d distances) OneWay(a, b string) (time.Duration, bool) {
	w, ok := d[[2]string{min(a, b), max(a, b)}]
	return w, ok
}

// A fast server far away is worth its distance where it saves more than that.
func ExamplePlan() {
	const ms = time.Millisecond
	serves := func(peer string, from, to int, perBlock time.Duration) route.Candidate {
		return route.Candidate{Peer: peer, Span: protocol.Span{From: from, To: to}, Decode: perBlock, KVFree: 4096, MaxContext: 4096}
	}
	links := distances{{"far", "near"}: 20 * ms, {"far", "home"}: 20 * ms, {"home", "near"}: ms}
	request := route.Request{Client: "home", Blocks: 32, Prompt: 100, MaxTokens: 200}

	for _, speed := range []time.Duration{ms, 5 * ms} {
		plan, err := route.Plan(request, []route.Candidate{
			serves("near", 0, 16, ms), serves("near", 16, 32, speed), serves("far", 16, 32, ms),
		}, links)
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, hop := range plan.Hops {
			fmt.Printf("%s %s; ", hop.Peer, hop.Span)
		}
		fmt.Printf("%.0f tokens/s\n", plan.Prediction.TokensPerSecond())
	}

	_, err := route.Plan(request, []route.Candidate{serves("near", 0, 16, ms)}, links)
	fmt.Println(err)
	// Output:
	// near 0-16; near 16-32; 31 tokens/s
	// near 0-16; far 16-32; 14 tokens/s
	// nobody serves blocks 16-32
}
