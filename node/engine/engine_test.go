package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// TestMain lets this test program be its own engine child.
func TestMain(m *testing.M) {
	if os.Getenv("SHOAL_ENGINE_CHILD") != "" {
		os.Exit(ChildMain())
	}
	os.Exit(m.Run())
}

const tiny = "../../contrib/tinymodel/tinytales.gguf"

// shared gives the path of a model that a stranger's clone does not have.
func shared(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join("../../../shared/models", name)
	if _, err := os.Stat(path); err != nil {
		t.Skip("no reference models beside this clone: ", path)
	}
	return path
}

// stageFile writes what a store would hand to the engine: the model behind a
// header that lists only what the span needs, and holes for the rest.
func stageFile(t testing.TB, path string, from, to int) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(h); err != nil {
		t.Fatal(err)
	}
	tied := !slices.ContainsFunc(h.Tensors, func(t gguf.Tensor) bool { return t.Name == "output.weight" })
	needs := func(name string) bool {
		head, rest, _ := strings.Cut(name, ".")
		switch {
		case head == "blk":
			n, _, _ := strings.Cut(rest, ".")
			i, _ := strconv.Atoi(n)
			return from <= i && i < to
		case head == "token_embd":
			return from == 0 || tied && to == h.Blocks()
		case strings.HasPrefix(head, "output"):
			return to == h.Blocks()
		}
		return true
	}
	var defaults []gguf.KV
	for k, v := range Defaults(h) {
		defaults = append(defaults, gguf.KV{Key: k, Value: v})
	}
	const prefix = 1 << 20
	head, err := h.Stage(defaults, func(t gguf.Tensor) int64 {
		if !needs(t.Name) {
			return -1
		}
		return prefix + h.DataOffset + int64(t.Offset)
	})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), fmt.Sprintf("%d-%d.gguf", from, to))
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range h.Tensors {
		if needs(p.Name) {
			at := h.DataOffset + int64(p.Offset)
			if _, err := f.WriteAt(raw[at:at+int64(p.Bytes())], prefix+at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := f.WriteAt(head, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

func blocksOf(t testing.TB, path string) int {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, _ := f.Stat()
	h, err := gguf.Read(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return h.Blocks()
}

// chain is a model cut into stages.
type chain []Engine

// load cuts a model into n stages of about the same length.
func load(t testing.TB, path string, n int, start func(Config) (Engine, error)) chain {
	t.Helper()
	blocks := blocksOf(t, path)
	if start == nil {
		start = func(c Config) (Engine, error) { return Load(context.Background(), c, nil) }
	}
	var c chain
	for i := range n {
		from, to := blocks*i/n, blocks*(i+1)/n
		e, err := start(Config{Path: stageFile(t, path, from, to), From: from, To: to, KVTokens: 2048, MaxSeqs: 4, MaxBatch: 64})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		c = append(c, e)
	}
	return c
}

// pass takes consecutive tokens of a sequence through all stages.
func (c chain) pass(t testing.TB, seq, base int, ids []int32, out *Output) []sample.Token {
	t.Helper()
	b := &Batch{Tokens: ids}
	for i := range ids {
		b.Rows = append(b.Rows, Row{seq, int32(base + i)})
	}
	for i, e := range c {
		if i == len(c)-1 && out != nil {
			out.Row, out.Position = len(ids)-1, uint64(base+len(ids))
			b.Outputs = []Output{*out}
		}
		res, err := e.Run(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		if i == len(c)-1 {
			return res.Tokens
		}
		b = &Batch{Rows: b.Rows, Hidden: res.Hidden}
	}
	return nil
}

// generate answers a prompt that is computed in chunks.
func (c chain) generate(t testing.TB, seq int, prompt []int32, n, chunk int, p sample.Params) []sample.Token {
	t.Helper()
	var got []sample.Token
	at := 0
	for at+chunk < len(prompt) {
		c.pass(t, seq, at, prompt[at:at+chunk], nil)
		at += chunk
	}
	next := c.pass(t, seq, at, prompt[at:], &Output{Params: p})
	at = len(prompt)
	for {
		got = append(got, next[0])
		if len(got) == n {
			break
		}
		next = c.pass(t, seq, at, []int32{next[0].ID}, &Output{Params: p})
		at++
	}
	for _, e := range c {
		if err := e.Remove(seq, 0); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

func ids(tokens []sample.Token) []int32 {
	out := make([]int32, len(tokens))
	for i, t := range tokens {
		out[i] = t.ID
	}
	return out
}

// reference is a prompt with what a reference implementation made of it.
type reference struct {
	Prompt []int32
	Greedy []int32
	Steps  []map[int32]float64 // best tokens with logits or log probabilities
}

func readReference(t *testing.T, path string) (r reference) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		PromptTokens []int32           `json:"prompt_tokens"`
		PromptIDs    []int32           `json:"prompt_ids"`
		Tokens       []int32           `json:"tokens"`
		Greedy       []int32           `json:"greedy_tokens"`
		GreedyIDs    []int32           `json:"greedy_ids"`
		Steps        []json.RawMessage `json:"steps"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	r.Prompt = append(file.PromptTokens, file.PromptIDs...)
	r.Greedy = slices.Concat(file.Tokens, file.Greedy, file.GreedyIDs)
	for _, s := range file.Steps {
		var pairs struct {
			Top [][2]float64 `json:"top"`
		}
		var named struct {
			Top []struct {
				ID      int32
				Logprob float64
				Logit   float64
			}
		}
		top := map[int32]float64{}
		if json.Unmarshal(s, &pairs) == nil {
			for _, p := range pairs.Top {
				top[int32(p[0])] = p[1]
			}
		} else if err := json.Unmarshal(s, &named); err == nil {
			for _, p := range named.Top {
				top[p.ID] = p.Logprob + p.Logit
			}
		} else {
			t.Fatal(err)
		}
		r.Steps = append(r.Steps, top)
	}
	if len(r.Greedy) == 0 {
		for _, top := range r.Steps {
			best, at := math.Inf(-1), int32(-1)
			for id, v := range top {
				if v > best {
					best, at = v, id
				}
			}
			r.Greedy = append(r.Greedy, at)
		}
	}
	return r
}

// Text and numbers must be those of the reference implementations.
func TestReferences(t *testing.T) {
	for _, c := range []struct {
		model, file string
		equal       int     // greedy tokens that must be equal; 0: all
		near        float64 // of the log probabilities relative to the best
		steps       int     // so many of them
	}{
		{"stories260K.gguf", "stories260K.p1.json", 150, 0.02, 8},
		{"stories260K.gguf", "stories260K.p2.json", 150, 0.02, 8},
		{"SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2.p1.json", 0, 0.05, 8},
		{"SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2.p2.json", 0, 0.05, 8},
		{"tinytales/tinytales-f32.gguf", "tinytales/tinytales.p1.json", 0, 0.02, 8},
		{"tinytales/tinytales-f32.gguf", "tinytales/tinytales.p2.json", 0, 0.02, 8},
	} {
		t.Run(filepath.Base(c.file), func(t *testing.T) {
			ref := readReference(t, shared(t, c.file))
			e := load(t, shared(t, c.model), 1, nil)
			want := ref.Greedy
			if c.equal > 0 && c.equal < len(want) {
				want = want[:c.equal]
			}
			got := e.generate(t, 0, ref.Prompt, len(want), 64, sample.Params{TopLogprobs: 5})
			if g := ids(got); !slices.Equal(g, want) {
				n := 0
				for n < len(want) && g[n] == want[n] {
					n++
				}
				t.Errorf("greedy text differs from token %d of %d on", n, len(want))
			}
			worst := 0.0
			for i := range min(c.steps, len(ref.Steps)) {
				best := got[i].Top[0]
				for _, a := range got[i].Top[1:] {
					ra, ok1 := ref.Steps[i][a.ID]
					rb, ok2 := ref.Steps[i][best.ID]
					if ok1 && ok2 { // differences, whether the file gives logits or log probabilities
						worst = max(worst, math.Abs(float64(a.Logprob-best.Logprob)-(ra-rb)))
					}
				}
			}
			t.Logf("%d tokens, largest difference %.4f", len(want), worst)
			if worst > c.near {
				t.Errorf("a log probability is off by %.4f, more than %.2f", worst, c.near)
			}
		})
	}
}

// One stage, three and five give the same tokens, whatever the chunks.
func TestStagesAgree(t *testing.T) {
	for _, path := range []string{tiny, "stories260K.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf"} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			if path != tiny {
				path = shared(t, path)
			}
			prompt := []int32{1, 40, 77, 300, 12, 5, 260, 99, 31, 8, 400, 211, 90, 18, 44, 3, 17, 9, 100, 350}
			for _, p := range []sample.Params{{}, {Temperature: 0.8, TopK: 40, Seed: 7}} {
				want := ids(load(t, path, 1, nil).generate(t, 0, prompt, 40, 64, p))
				for _, n := range []int{3, 5} {
					if got := ids(load(t, path, n, nil).generate(t, 0, prompt, 40, 64, p)); !slices.Equal(got, want) {
						t.Errorf("%d stages, %+v: %v, want %v", n, p, got, want)
					}
				}
			}
		})
	}
}

func TestChild(t *testing.T) {
	start := func(c Config) (Engine, error) { return Start(t.Context(), []string{os.Args[0]}, c, nil) }
	prompt := []int32{1, 40, 77, 300, 12}
	want := ids(load(t, tiny, 1, nil).generate(t, 0, prompt, 20, 64, sample.Params{Temperature: 1, Seed: 3}))
	c := load(t, tiny, 2, start)
	if got := ids(c.generate(t, 0, prompt, 20, 64, sample.Params{Temperature: 1, Seed: 3})); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if _, err := c[0].Run(t.Context(), &Batch{}); !errors.Is(err, ErrBatch) {
		t.Errorf("an empty batch: %v", err)
	}
	child := c[0].(*Child)
	if f := child.Info().Fence; f == nil || !slices.Contains(f.Holds, "environment") {
		t.Errorf("its fence: %+v", f)
	} else {
		t.Logf("behind a fence that holds %v, and not %v", f.Holds, f.Lacks)
	}
	if err := child.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-child.Done()
	if _, err := child.Run(t.Context(), &Batch{Rows: make([]Row, 1), Tokens: make([]int32, 1)}); !errors.Is(err, ErrLost) {
		t.Errorf("after kill -9: %v", err)
	}
	if !errors.Is(child.Err(), ErrLost) {
		t.Errorf("why it ended: %v", child.Err())
	}
	if _, err := start(Config{Path: tiny, From: 3, To: 90, KVTokens: 64, MaxSeqs: 1, MaxBatch: 8}); err == nil || errors.Is(err, ErrLost) {
		t.Errorf("blocks that are not there: %v", err)
	}
}

func FuzzMessages(f *testing.F) {
	b := &Batch{Rows: []Row{{1, 2}}, Tokens: []int32{3}, Outputs: []Output{{Params: sample.Params{Seed: 1 << 63}, History: []int32{1}, Allowed: []uint64{1 << 63, 5}}}}
	f.Add(b.append(nil))
	f.Add((&Result{Hidden: []float32{1}, Tokens: []sample.Token{{ID: 4, Top: []sample.Top{{ID: 5}}}}}).append(nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if b, err := parseBatch(raw); err == nil {
			if again, err := parseBatch(b.append(nil)); err != nil || len(again.Rows) != len(b.Rows) || !slices.EqualFunc(again.Outputs, b.Outputs, func(x, y Output) bool { return slices.Equal(x.Allowed, y.Allowed) }) {
				t.Fatal(err)
			}
		}
		if r, err := parseResult(raw); err == nil {
			if _, err := parseResult(r.append(nil)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
