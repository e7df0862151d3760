package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/serve"
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

// Over real engines and real links, answers are the same with guesses and without, to the
// bit: tokens and log probabilities, drawn, penalized, stopped by a text, or of a format,
// whoever guesses, and with other answers in the same passes. That a row is computed alike
// alone and in company takes Exact but for the built-in engine on Linux with an x86
// processor.
//
// SHOAL_TEST_AHEAD=100 takes a hundred prompts over one to five stages. SHOAL_LIBLLAMA
// names the folder of the library; without it, the built-in engine alone computes.
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
	for _, use := range []string{engine.BuiltIn, engine.Llama} {
		dir := os.Getenv("SHOAL_LIBLLAMA")
		if use == engine.Llama && dir == "" {
			continue
		}
		refs := new(sync.Map)
		for _, spans := range cuts {
			t.Run(fmt.Sprint(len(spans), " stages, engine ", use), func(t *testing.T) {
				exact := use == engine.Llama || runtime.GOOS != "linux" || runtime.GOARCH != "amd64"
				cfg := node.Config{Exact: exact, Engines: serve.Engines{Use: use, Library: func() (serve.Library, error) {
					return serve.Library{Dir: dir, ID: dir}, nil
				}}}
				sameAhead(t, cfg, spans, prompts, refs)
			})
		}
	}
}

// sameAhead compares answers over a route, some at a time, with those without guesses,
// which are in refs by their prompts or come over the same route. Each drafter has its
// turn at each way to draw.
func sameAhead(t *testing.T, cfg node.Config, spans []string, prompts int, refs *sync.Map) {
	scripts := new(scriptBook)
	cfg.Guess, cfg.KVTokens = scripts.guess, 16<<10
	a := aheadRoute(t, cfg, spans, 10*time.Millisecond)
	c := &aheadCount{refs: refs, of: map[string]api.Ahead{}}
	var wait sync.WaitGroup
	few := make(chan struct{}, 24)
	for i := range prompts {
		who, what := []string{"fox", "owl", "bear", "cat", "hare"}[i%5], []string{"lantern", "boat", "key", "map"}[i%4]
		tale := strings.Repeat(fmt.Sprintf("Once upon a time there was a %s who had a %s. One day the %s went to the river. ", who, what, who), 1+i%4)
		cases := aheadCases()
		for j, name := range slices.Sorted(maps.Keys(cases)) {
			few <- struct{}{}
			wait.Go(func() {
				defer func() { <-few }()
				req := request(fmt.Sprintf("%sThe %d and the %d. ", tale, i, j), 0.8, 20) // no other has this prompt
				req.Sampling.Logprobs = true
				cases[name](&req)
				if err := c.compare(a, scripts, req, drafters[(i+j+len(spans))%len(drafters)]); err != nil {
					t.Errorf("prompt %d, %s: %s", i, name, err)
				}
			})
		}
	}
	wait.Wait()
	for _, who := range drafters {
		sum := c.of[who]
		t.Logf("%s: %+v", who, sum)
		switch {
		case len(spans) == 1 && sum.Sent > 0:
			t.Errorf("guesses of one stage: %s: %+v", who, sum)
		case len(spans) > 1 && who != "table" && sum.Sent == 0, who == "always wrong" && sum.Kept > 0:
			t.Errorf("%s: %+v", who, sum)
		}
	}
	if st, err := a.Client().Status(t.Context()); err == nil && len(st.Serving) > 0 {
		t.Logf("%d answers; %.2f rows per pass", c.answers, float64(st.Serving[0].Rows)/float64(max(1, st.Serving[0].Passes)))
	}
}

// aheadCount compares answers, and counts guesses by who made them.
type aheadCount struct {
	refs    *sync.Map // reference by prompt
	mu      sync.Mutex
	of      map[string]api.Ahead
	answers int
}

// reference is an answer without guesses.
type reference struct {
	all            string
	prompt, answer []int32
}

// compare asks for an answer with the guesses of a drafter.
func (c *aheadCount) compare(a *node.Node, scripts *scriptBook, req api.GenerateRequest, who string) error {
	ref, err := c.reference(a, req)
	if err != nil {
		return fmt.Errorf("without guesses: %w", err)
	}
	scripts.put(ref.prompt, script{ref.answer, who})
	got, _, _, sent, err := askAhead(a, &req)
	if err != nil {
		return fmt.Errorf("%s: %w", who, err)
	}
	if got != ref.all {
		return fmt.Errorf("%s: without guesses\n%s\nwith %+v\n%s", who, ref.all, sent, got)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := c.of[who]
	c.of[who] = api.Ahead{Sent: sum.Sent + sent.Sent, Kept: sum.Kept + sent.Kept}
	c.answers++
	return nil
}

// reference returns the answer without guesses.
func (c *aheadCount) reference(a *node.Node, req api.GenerateRequest) (*reference, error) {
	if ref, ok := c.refs.Load(req.Prompt); ok {
		return ref.(*reference), nil
	}
	req.Ahead = "off"
	all, prompt, answer, sent, err := askAhead(a, &req)
	if err != nil {
		return nil, err
	}
	if all == "" || sent.Sent > 0 {
		return nil, fmt.Errorf("%q, %+v", all, sent)
	}
	ref := &reference{all, prompt, answer}
	c.refs.Store(req.Prompt, ref)
	return ref, nil
}

// askAhead is askOnce, again where a busy machine keeps a node from saying in time that it
// is there.
func askAhead(a *node.Node, req *api.GenerateRequest) (all string, prompt, answer []int32, sent api.Ahead, err error) {
	for range 5 {
		var e *api.Error
		if all, prompt, answer, sent, err = askOnce(a, req); err == nil || !errors.As(err, &e) || e.Kind != api.NoRoute {
			break
		}
	}
	return all, prompt, answer, sent, err
}

// askOnce returns an answer with all that could differ, and the tokens of both sides.
func askOnce(a *node.Node, req *api.GenerateRequest) (all string, prompt, answer []int32, sent api.Ahead, err error) {
	err = a.Client().Generate(context.Background(), req, func(e api.Event) error {
		switch {
		case e.Start != nil:
			prompt = e.Start.PromptTokens
		case e.Token != nil:
			all += fmt.Sprintf("%d %v %q\n", e.Token.ID, e.Token.Logprob, e.Token.Text)
			answer = append(answer, e.Token.ID)
		case e.Done != nil && e.Done.Ahead != nil:
			sent = *e.Done.Ahead
		}
		return nil
	})
	return all, prompt, answer, sent, err
}

// aheadRoute starts a node for each span of the tiny model, far from each other, and returns
// the first.
func aheadRoute(t *testing.T, cfg node.Config, spans []string, rtt time.Duration) *node.Node {
	far := link.Params{RTT: rtt}.SocketOptions()
	file := filepath.Join(t.TempDir(), "tales.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	cfg.Network, cfg.Serve = far, []node.ServeSpec{{Model: file, Span: spans[0]}}
	a, addrs := start(t, cfg, false)
	if _, err := a.Client().Add(t.Context(), api.AddRequest{Source: file}, nil); err != nil {
		t.Fatal(err)
	}
	for i, span := range spans[1:] {
		cfg.Bootstrap, cfg.Serve = addrs, []node.ServeSpec{{Model: "tales", Span: span}}
		start(t, cfg, i == len(spans)-2)
	}
	until(t, "all blocks are served", func() bool {
		req := request("Once", 0, 1)
		_, _, _, _, err := askAhead(a, &req)
		return err == nil
	})
	return a
}
