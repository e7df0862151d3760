package node_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/node/serve"
)

// drafts returns what the first node says of its drafter.
func drafts(t *testing.T, a *node.Node) api.Draft {
	t.Helper()
	st, err := a.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Serving) == 0 || st.Serving[0].Draft == nil {
		return api.Draft{}
	}
	return *st.Serving[0].Draft
}

// A small model guesses for a large one, greedy and drawn, and answers are the same with it
// and without, to the bit. A twin of all blocks is always right, one of fewer now and then.
func TestDraftSameAnswers(t *testing.T) {
	t.Parallel()
	for _, blocks := range []int{8, 6} {
		t.Run(fmt.Sprint(blocks, " blocks"), func(t *testing.T) {
			t.Parallel()
			twin := enginetest.Twin(t, enginetest.Tiny(t), blocks)
			a := aheadRoute(t, node.Config{Engines: serve.Engines{Draft: twin}}, aheadCuts[2], 40*time.Millisecond)
			tale := request("Once upon a time there was a fox who", 0, 12)
			if _, _, _, _, err := askAhead(a, &tale); err != nil { // for which the drafter is loaded
				t.Fatal(err)
			}
			var wait sync.WaitGroup
			for name, change := range aheadCases() {
				wait.Go(func() {
					var answers [2]string
					for j, ahead := range []string{"off", "auto"} {
						req := request("Once upon a time there was an owl who", 0.8, 20)
						req.Ahead, req.Sampling.Logprobs = ahead, true
						change(&req)
						var err error
						if answers[j], _, _, _, err = askAhead(a, &req); err != nil {
							t.Errorf("%s, %s: %s", name, ahead, err)
							return
						}
					}
					if answers[0] != answers[1] || answers[0] == "" {
						t.Errorf("%s: without guesses\n%s\nwith them\n%s", name, answers[0], answers[1])
					}
				})
			}
			wait.Wait()
			d := drafts(t, a)
			switch t.Logf("%+v", d); {
			case d.Trouble != "" || d.Name == "":
				t.Errorf("%+v", d)
			case d.Right == 0:
				t.Skipf("the machine is too busy for a drafter to pay: %+v", d)
			case blocks == 8 && d.Wrong > d.Right:
				t.Errorf("the same weights are mostly wrong: %+v", d)
			}
		})
	}
}

// A drafter of another vocabulary, and one for which there is no room, are refused in words,
// and answers go on without.
func TestDraftRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg  node.Config
		want string
	}{
		"another vocabulary": {node.Config{Engines: serve.Engines{Draft: enginetest.RandomFile(t, 0)}}, "its vocabulary is another one"},
		"no such model":      {node.Config{Engines: serve.Engines{Draft: "nobody-has-this"}}, "the drafter nobody-has-this"},
	} {
		t.Run(name, func(t *testing.T) {
			a := aheadRoute(t, c.cfg, aheadCuts[1], 40*time.Millisecond)
			req := request("Once", 0, 4)
			if answer, _, _, _, err := askAhead(a, &req); err != nil || answer == "" {
				t.Fatal(answer, err)
			}
			until(t, "it is told", func() bool { return drafts(t, a).Trouble != "" })
			if d := drafts(t, a); !strings.Contains(d.Trouble, c.want) || d.Loaded {
				t.Errorf("%+v", d)
			}
		})
	}
}
