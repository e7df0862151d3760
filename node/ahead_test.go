package node_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/testnet/link"
)

// Over a real engine and real links, answers are the same with guesses and without: tokens
// and log probabilities, drawn, penalized, stopped by a text, or of a format.
func TestAheadSameAnswers(t *testing.T) {
	t.Parallel()
	far := link.Params{RTT: 10 * time.Millisecond}.LibP2POptions()
	file := filepath.Join(t.TempDir(), "tales.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	a, addrs := start(t, node.Config{Network: far, Serve: []node.ServeSpec{{Model: file, Span: "0-3"}}}, false)
	if _, err := a.Client().Add(t.Context(), api.AddRequest{Source: file}, nil); err != nil {
		t.Fatal(err)
	}
	start(t, node.Config{Network: far, Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "tales", Span: "3-5"}}}, false)
	start(t, node.Config{Network: far, Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "tales", Span: "5-8"}}}, true)
	until(t, "the first node is ready", func() bool {
		st, err := a.Client().Status(t.Context())
		return err == nil && len(st.Serving) > 0 && st.Serving[0].Ready
	})
	tale := "Once upon a time there was a fox who had a lantern. One day the fox went to the river. "
	sent, kept := 0, 0
	for name, change := range map[string]func(*api.GenerateRequest){
		"greedy":    func(r *api.GenerateRequest) { *r.Sampling.Temperature = 0 },
		"drawn":     func(*api.GenerateRequest) {},
		"penalties": func(r *api.GenerateRequest) { r.Sampling.RepeatPenalty = 1.2 },
		"stopped":   func(r *api.GenerateRequest) { *r.Sampling.Temperature, r.Stop = 0, []string{"."} },
		"a format": func(r *api.GenerateRequest) {
			r.Format = json.RawMessage(`{"type": "array", "items": {"enum": ["the fox had a lantern"]}, "minItems": 4, "maxItems": 4}`)
		},
	} {
		var answers [2]string
		for i, ahead := range []string{"off", "auto"} {
			req := request(strings.Repeat(tale, 3), 0.8, 20)
			req.Ahead, req.Sampling.Logprobs = ahead, true
			change(&req)
			err := a.Client().Generate(t.Context(), &req, func(e api.Event) error {
				if e.Token != nil {
					answers[i] += fmt.Sprintln(e.Token.ID, e.Token.Logprob)
				}
				if e.Done != nil && e.Done.Ahead != nil {
					if sent, kept = sent+e.Done.Ahead.Sent, kept+e.Done.Ahead.Kept; ahead == "off" {
						t.Errorf("%s: %+v where guesses are off", name, e.Done.Ahead)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatalf("%s, %s: %s", name, ahead, err)
			}
		}
		if answers[0] != answers[1] || answers[0] == "" {
			t.Errorf("%s: without guesses\n%s\nwith them\n%s", name, answers[0], answers[1])
		}
	}
	if t.Logf("%d sent, %d kept", sent, kept); sent == 0 {
		t.Error("nothing was guessed")
	}
}
