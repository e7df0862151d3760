package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/llama"
	"github.com/shoalnet/shoal/node/engine/llama/random"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/testnet"
)

// Networks that compute with llama.cpp's library.

// needLibrary returns the folder of the library that tests use.
func needLibrary(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(llama.Variable)
	if dir == "" {
		t.Skip(llama.Variable + " names no folder with llama.cpp's library")
	}
	return dir
}

// withLibrary are arguments of nodes that use the library in a folder.
func withLibrary(dir string, more ...string) []string {
	return append([]string{"--engine", engine.Llama, "--llama", dir}, more...)
}

// inquirer asks a node of a network.
type inquirer struct{ api.Client }

// inquire asks the first node of a network, of which the first span is its own.
func inquire(t *testing.T, net *testnet.Testnet) *inquirer {
	door := net.Nodes()[0]
	return &inquirer{api.Client{Base: "http://" + door.API, Token: token(door.Dir)}}
}

type question struct {
	text     string
	ids      []int32 // in place of text
	tokens   int
	exact    bool
	route    []api.Hop // none: any
	sampling api.Sampling
}

type reply struct {
	prompt, tokens []int32
	route          []api.Hop
	done           api.Done
}

// ask asks for a greedy answer, if the question names no temperature. at is called with
// the number of tokens after each.
func (c *inquirer) ask(ctx context.Context, q question, at func(n int)) (r reply, err error) {
	req := &api.GenerateRequest{Raw: true, Prompt: q.text, PromptIDs: q.ids, MaxTokens: q.tokens, Exact: q.exact, Route: q.route, Sampling: q.sampling, IgnoreEOS: true}
	if req.Sampling.Temperature == nil {
		req.Sampling.Temperature = new(float64)
	}
	err = c.Generate(ctx, req, func(e api.Event) error {
		switch {
		case e.Start != nil:
			r.prompt, r.route = e.Start.PromptTokens, e.Start.Route
		case e.Token != nil:
			r.tokens = append(r.tokens, e.Token.ID)
			if at != nil {
				at(len(r.tokens))
			}
		case e.Done != nil:
			r.done = *e.Done
		}
		return nil
	})
	return r, err
}

// TestLibraryTokens: through three nodes a model's greedy tokens are those of llama.cpp
// itself, and drawn ones those of one node. SHOAL_GEMMA names a file of Gemma 3.
func TestLibraryTokens(t *testing.T) {
	t.Parallel()
	lib := needLibrary(t)
	smol, err := filepath.Abs("../../../shared/models/SmolLM2-135M-Instruct.Q4_1.gguf")
	if err != nil {
		t.Fatal(err)
	}
	for _, model := range []string{smol, os.Getenv("SHOAL_GEMMA")} {
		if _, err := os.Stat(model); err != nil {
			t.Logf("without %q: %v", model, err)
			continue
		}
		var drawn []int32
		for _, nodes := range []int{1, 3} {
			// Where the machine is busy, a repair computes rows once more, in passes of other
			// shapes: --exact has those sums be the same to the last bit.
			net := processes(t, testnet.Config{Nodes: nodes, Model: model, Args: withLibrary(lib, "--exact")})
			cl := inquire(t, net)
			r, err := cl.ask(t.Context(), question{text: "The history of the lighthouse began", tokens: 64, exact: true}, nil)
			if err != nil {
				t.Fatal(err)
			}
			want, err := random.Answer(lib, model, r.prompt, 64)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.route) != nodes || !slices.Equal(r.tokens, want) {
				t.Errorf("%s on %d nodes, %+v, after %+v:\n%v\nllama.cpp:\n%v", filepath.Base(model), nodes, r.route, r.done.Recoveries, r.tokens, want)
			}
			hot, seed := 0.9, uint64(7)
			r, err = cl.ask(t.Context(), question{text: "Tell me about the sea.", tokens: 60, exact: true, sampling: api.Sampling{Temperature: &hot, Seed: &seed}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if nodes > 1 && !slices.Equal(r.tokens, drawn) {
				t.Errorf("%s on %d nodes draws\n%v\non one:\n%v", filepath.Base(model), nodes, r.tokens, drawn)
			}
			drawn = r.tokens
			if err := net.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestHybridNetwork: an answer of a model with recurrent blocks is the undisturbed one
// where a node is killed in the middle of it, where it is cancelled and goes on, and
// where a text begins like one before.
func TestHybridNetwork(t *testing.T) {
	t.Parallel()
	lib := needLibrary(t)
	all := random.Models()
	m := all[slices.IndexFunc(all, func(m random.Model) bool { return m.Name == "qwen35" })]
	path, err := m.Write(lib, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	net := processes(t, testnet.Config{Nodes: 6, Replicas: 2, Model: path, Args: withLibrary(lib)})
	cl := inquire(t, net)
	prompt := make([]int32, 700) // farther than a stage can be taken back
	for i := range prompt {
		prompt[i] = int32(3 + (i*i+i/7)%250)
	}
	const n = 120
	ask := func(ids []int32, tokens int, at func(int)) reply {
		t.Helper()
		r, err := cl.ask(t.Context(), question{ids: ids, tokens: tokens}, at)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	want, err := random.Answer(lib, path, prompt, n)
	if err != nil {
		t.Fatal(err)
	}
	whole := ask(prompt, n, nil)
	if len(whole.route) != 3 || !slices.Equal(whole.tokens, want) {
		t.Fatalf("on %+v:\n%v\nllama.cpp:\n%v", whole.route, whole.tokens, want)
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		part, err := cl.ask(ctx, question{ids: prompt, tokens: n}, func(at int) {
			if at == 50 {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("%v after %d tokens", err, len(part.tokens))
		}
		rest := ask(slices.Concat(prompt, part.tokens), n-len(part.tokens), nil)
		if got := slices.Concat(part.tokens, rest.tokens); !slices.Equal(got, want) || rest.done.Cached == 0 {
			t.Errorf("with %d of %d positions kept:\n%v\n%v", rest.done.Cached, len(rest.prompt), got, want)
		}
	})
	t.Run("a prefix", func(t *testing.T) {
		for _, at := range []int{690, 400, 65} { // near, and farther back than Info.Back
			ids := slices.Clone(prompt)
			ids[at]++
			want, err := random.Answer(lib, path, ids, 20)
			if err != nil {
				t.Fatal(err)
			}
			r := ask(ids, 20, nil)
			if t.Logf("from %d on: %d positions kept", at, r.done.Cached); !slices.Equal(r.tokens, want) {
				t.Errorf("from position %d on another text:\n%v\n%v", at, r.tokens, want)
			}
		}
	})
	t.Run("back too far", func(t *testing.T) {
		// The first stage has the beginning of the prompt only, after a shorter one that went
		// through another second stage. The old second stage has more, and cannot certainly
		// be taken back so far: all begins again.
		other := slices.Clone(whole.route)
		for _, node := range net.Nodes()[1:] {
			if node.From == other[1].From && node.Peer != whole.route[1].Peer {
				other[1].Peer = node.Peer
			}
		}
		on := func(route []api.Hop, ids []int32) reply {
			t.Helper()
			r, err := cl.ask(t.Context(), question{ids: ids, tokens: 20, route: route}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		short := slices.Clone(prompt[:200])
		for _, c := range []struct {
			route []api.Hop
			ids   []int32
		}{{whole.route, prompt}, {whole.route, prompt}, {other, short}, {whole.route, prompt}, {other, prompt}} {
			r := on(c.route, c.ids)
			if t.Logf("%d of %d positions kept", r.done.Cached, len(c.ids)); len(c.ids) == len(prompt) && !slices.Equal(r.tokens, want[:20]) {
				t.Errorf("with %d positions kept:\n%v\n%v", r.done.Cached, r.tokens, want[:20])
			}
		}
	})
	t.Run("not exact", func(t *testing.T) {
		_, err := cl.ask(t.Context(), question{ids: prompt[:20], tokens: 5, exact: true}, nil)
		if r := remedy.Of(err); !errors.Is(err, &api.Error{Kind: api.NoRoute}) || r == nil || r.Kind != remedy.NotExact || !strings.Contains(err.Error(), "recurrent") {
			t.Errorf("it is not said why there is no exact answer: %v", err)
		}
	})
	t.Run("killed", func(t *testing.T) {
		for try := range 2 {
			var victim string
			r := ask(prompt, n, func(at int) {
				if at != 30 {
					return
				}
				for _, node := range net.Nodes()[1:] {
					if node.Peer == whole.route[1+try].Peer {
						victim = node.Name
					}
				}
				if err := net.Kill(victim); err != nil {
					t.Error(err)
				}
			})
			if !slices.Equal(r.tokens, want) {
				t.Errorf("with %s killed, after %+v:\n%v\n%v", victim, r.done.Recoveries, r.tokens, want)
			}
			t.Logf("%s killed: %+v", victim, r.done.Recoveries)
		}
	})
}
