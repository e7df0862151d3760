package node_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/testnet/link"
)

// aheadCuts cut the tiny model's eight blocks into stages.
var aheadCuts = [][]string{{"0-8"}, {"0-4", "4-8"}, {"0-3", "3-5", "5-8"}, {"0-2", "2-4", "4-6", "6-8"}, {"0-2", "2-3", "3-5", "5-6", "6-8"}}

// aheadCases are ways to draw an answer.
func aheadCases() map[string]func(*api.GenerateRequest) {
	cases := map[string]func(*api.GenerateRequest){
		"greedy":    func(r *api.GenerateRequest) { *r.Sampling.Temperature = 0 },
		"penalties": func(r *api.GenerateRequest) { r.Sampling.RepeatPenalty = 1.2 },
		"stopped":   func(r *api.GenerateRequest) { *r.Sampling.Temperature, r.Stop = 0, []string{"."} },
		"a format": func(r *api.GenerateRequest) {
			r.Format = json.RawMessage(`{"type": "array", "items": {"enum": ["the fox had a lantern"]}, "minItems": 4, "maxItems": 4}`)
		},
	}
	for seed := range uint64(3) {
		cases[fmt.Sprint("drawn, seed ", seed)] = func(r *api.GenerateRequest) { *r.Sampling.Seed = seed }
	}
	return cases
}

// Over a real engine and real links, answers are the same with guesses and without, to the
// bit: tokens and log probabilities, drawn, penalized, stopped by a text, or of a format, and
// with other answers in the same passes. SHOAL_TEST_AHEAD=100 takes a hundred prompts over
// one to five stages.
func TestAheadSameAnswers(t *testing.T) {
	t.Parallel()
	prompts, cuts := 1, aheadCuts[2:3]
	if s := os.Getenv("SHOAL_TEST_AHEAD"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		prompts, cuts = n, aheadCuts
	}
	for _, spans := range cuts {
		t.Run(fmt.Sprint(len(spans), " stages"), func(t *testing.T) { sameAhead(t, spans, prompts) })
	}
}

// sameAhead compares answers over a route with and without guesses, a few at a time.
func sameAhead(t *testing.T, spans []string, prompts int) {
	ask := aheadRoute(t, spans)
	var mu sync.Mutex
	var total api.Ahead
	var wait sync.WaitGroup
	defer wait.Wait()
	few := make(chan struct{}, 7)
	for i := range prompts {
		who, what := []string{"fox", "owl", "bear", "cat", "hare"}[i%5], []string{"lantern", "boat", "key", "map"}[i%4]
		tale := strings.Repeat(fmt.Sprintf("Once upon a time there was a %s who had a %s. One day the %s went to the river. ", who, what, who), 1+i%4)
		for name, change := range aheadCases() {
			few <- struct{}{}
			wait.Go(func() {
				defer func() { <-few }()
				var answers [2]string
				for j, ahead := range []string{"off", "auto"} {
					req := request(tale, 0.8, 20)
					req.Ahead, req.Sampling.Logprobs = ahead, true
					change(&req)
					answer, sent, err := ask(&req)
					if err != nil {
						t.Errorf("prompt %d, %s, %s: %s", i, name, ahead, err)
						return
					}
					if answers[j] = answer; ahead == "off" && sent.Sent > 0 {
						t.Errorf("prompt %d, %s: %+v where guesses are off", i, name, sent)
					}
					mu.Lock()
					total.Sent, total.Kept = total.Sent+sent.Sent, total.Kept+sent.Kept
					mu.Unlock()
				}
				if answers[0] != answers[1] || answers[0] == "" {
					t.Errorf("prompt %d, %s: without guesses\n%s\nwith them\n%s", i, name, answers[0], answers[1])
				}
			})
		}
	}
	wait.Wait()
	switch t.Logf("%+v", total); {
	case total.Sent > 0 && len(spans) == 1:
		t.Errorf("guesses of one stage: %+v", total)
	case total.Sent == 0 && len(spans) > 1:
		t.Skip("the machine is too busy for guesses to pay, so nothing was compared with them")
	}
}

// aheadRoute starts a node for each span of the tiny model, far from each other, and returns
// what has the first one answer a request.
func aheadRoute(t *testing.T, spans []string) func(*api.GenerateRequest) (answer string, ahead api.Ahead, err error) {
	_, ask := aheadRouteFrom(t, spans, node.Config{})
	return ask
}

// aheadRouteFrom is aheadRoute with settings of the first node, which it returns, too.
func aheadRouteFrom(t *testing.T, spans []string, first node.Config) (a *node.Node, ask func(*api.GenerateRequest) (answer string, ahead api.Ahead, err error)) {
	far := link.Params{RTT: 40 * time.Millisecond}.SocketOptions()
	file := filepath.Join(t.TempDir(), "tales.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	first.Network, first.Serve = far, []node.ServeSpec{{Model: file, Span: spans[0]}}
	a, addrs := start(t, first, false)
	if _, err := a.Client().Add(t.Context(), api.AddRequest{Source: file}, nil); err != nil {
		t.Fatal(err)
	}
	for i, span := range spans[1:] {
		start(t, node.Config{Network: far, Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "tales", Span: span}}}, i == len(spans)-2)
	}
	ask = func(req *api.GenerateRequest) (answer string, ahead api.Ahead, err error) {
		err = a.Client().Generate(t.Context(), req, func(e api.Event) error {
			if e.Token != nil {
				answer += fmt.Sprintln(e.Token.ID, e.Token.Logprob)
			}
			if e.Done != nil && e.Done.Ahead != nil {
				ahead = *e.Done.Ahead
			}
			return nil
		})
		return answer, ahead, err
	}
	until(t, "all blocks are served", func() bool {
		req := request("Once", 0, 1)
		_, _, err := ask(&req)
		return err == nil
	})
	return a, ask
}
