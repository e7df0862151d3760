package llama

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/cut"
	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/node/engine/llama/random"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// answerLength is how many tokens of an answer are compared.
const answerLength = 24

// stages are in how many a model is checked.
const stages = 3

// checked is what came of a model in one stage, in two and in three. "": it is right;
// else why not.
type checked [stages]string

// check makes a model, and compares what this engine answers with the library's own
// answers, and answers in company with those alone, in so many stages each.
func check(ctx context.Context, lib, dir string, m random.Model, parts ...int) (c checked, err error) {
	path, err := m.Write(lib, dir)
	if err != nil {
		return c, err
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return c, err
	}
	prompts := [][]int32{text(1, 45), text(2, 23)}
	var want [][]int32
	ask := random.Answer
	if everyRow[m.Arch] {
		ask = random.AnswerEveryRow
	}
	for _, p := range prompts {
		answer, err := ask(lib, path, p, answerLength)
		if err != nil {
			return c, err
		}
		want = append(want, answer)
	}
	for _, n := range parts {
		i := n - 1
		spans, why := divide(h, n)
		if spans == nil {
			c[i] = why
		} else if err := compare(ctx, dir, h, raw, spans, prompts, want); err != nil {
			c[i] = err.Error()
		}
	}
	return c, nil
}

// divide cuts a model where it may be cut; why says why it cannot be.
func divide(h *gguf.Header, parts int) (spans []protocol.Span, why string) {
	whole := protocol.Span{To: h.Blocks()}
	if parts == 1 {
		return []protocol.Span{whole}, ""
	}
	cuts := engine.CutsFor(engine.Llama, h)
	if cuts == nil {
		cuts = &protocol.Cuts{Blocks: h.Blocks()}
		for i := range h.Blocks() - 1 {
			cuts.Edges = append(cuts.Edges, i+1)
		}
	}
	if spans = cuts.Divide(h.Blocks(), parts); len(spans) != parts {
		return nil, cuts.Why
	}
	return spans, ""
}

// compare returns an error if a chain of stages does not answer as is wanted, or answers
// otherwise in company than alone. The latter with keys and values in 32 bits: sums in
// another order are not the same to the last bit, and 16 bits make more of it.
func compare(ctx context.Context, dir string, h *gguf.Header, raw []byte, spans []protocol.Span, prompts, want [][]int32) error {
	for _, kvType := range []string{"f16", "f32"} {
		chain, err := loadChain(ctx, dir, h, raw, spans, kvType)
		if err != nil {
			return err
		}
		defer func() {
			for _, e := range chain {
				_ = e.Close()
			}
		}()
		alone := make([][]sample.Token, len(prompts))
		for i := range prompts {
			got, err := answers(ctx, chain, prompts[i:i+1])
			if err != nil {
				return err
			}
			alone[i] = got[0]
		}
		if kvType == "f16" {
			if got := ids(alone); !slices.EqualFunc(got, want, slices.Equal) {
				return fmt.Errorf("other answers than the library's [%v, not %v]", got, want)
			}
			continue
		}
		if single[chain[0].Info().Arch] {
			continue
		}
		together, err := answers(ctx, chain, prompts)
		if err != nil {
			return err
		}
		for i := range prompts {
			if !sameButTies(together[i], alone[i]) {
				return fmt.Errorf("other answers in company than alone [%v, not %v]", ids(together), ids(alone))
			}
		}
	}
	return nil
}

func ids(answers [][]sample.Token) (out [][]int32) {
	for _, tokens := range answers {
		out = append(out, enginetest.IDs(tokens))
	}
	return out
}

// sameButTies reports that an answer is the wanted one, at least up to a token that was about
// as likely as the wanted one: sums in another order may choose either, and what follows
// answers another text. The models are random, so that many tokens are as likely, and some
// magnify the last bits.
func sameButTies(got, want []sample.Token) bool {
	for i, w := range want {
		if got[i].ID == w.ID {
			continue
		}
		return slices.ContainsFunc(w.Top, func(o sample.Top) bool { return o.ID == got[i].ID && w.Logprob-o.Logprob < near })
	}
	return true
}

// loadChain loads a chain of stages.
func loadChain(ctx context.Context, dir string, h *gguf.Header, raw []byte, spans []protocol.Span, kvType string) (chain []engine.Engine, err error) {
	for _, s := range spans {
		path, err := write(dir, h, raw, s)
		if err != nil {
			return nil, err
		}
		e, err := Load(ctx, engine.Config{Path: path, From: s.From, To: s.To, KVTokens: 512, MaxSeqs: 4, MaxBatch: 128, Threads: 1, KVType: kvType}, nil)
		if err != nil {
			for _, e := range chain {
				_ = e.Close()
			}
			return nil, err
		}
		chain = append(chain, e)
	}
	return chain, nil
}

// text is one of random tokens.
func text(seed, length int) []int32 {
	out, x := make([]int32, length), uint32(seed)
	for i := range out {
		x = x*1664525 + 1013904223
		out[i] = int32(3 + x>>16%(random.Vocab-4))
	}
	return out
}

// answers has a chain answer prompts, and forgets them. Of several, the first is read in
// two parts, and the others begin beside the second one.
func answers(ctx context.Context, chain []engine.Engine, prompts [][]int32) ([][]sample.Token, error) {
	got, at := make([][]sample.Token, len(prompts)), make([]int32, len(prompts))
	b := &batch{}
	if len(prompts) > 1 {
		at[0] = 17
		b.add(0, 0, prompts[0][:at[0]], false)
		if _, err := b.run(ctx, chain); err != nil {
			return nil, err
		}
		b = &batch{}
	}
	for seq, p := range prompts {
		b.add(seq, at[seq], p[at[seq]:], true)
		at[seq] = int32(len(p))
	}
	for len(got[0]) < answerLength {
		tokens, err := b.run(ctx, chain)
		if err != nil {
			return nil, err
		}
		b = &batch{}
		for seq := len(prompts) - 1; seq >= 0; seq-- { // not the order in which they began
			got[seq] = append(got[seq], tokens[seq])
			b.add(seq, at[seq], []int32{tokens[seq].ID}, true)
			at[seq]++
		}
	}
	for seq := range prompts {
		for _, e := range chain {
			if err := e.Remove(seq, 0); err != nil {
				return nil, err
			}
		}
	}
	return got, nil
}

// write makes the file of a span.
func write(dir string, h *gguf.Header, raw []byte, s protocol.Span) (string, error) {
	stage, err := cut.Of(h, s)
	if err != nil {
		return "", err
	}
	out := make([]byte, stage.Size)
	copy(out, stage.Header)
	for _, p := range stage.Pieces {
		copy(out[p.At:][:p.Length], raw[p.From:])
	}
	path := filepath.Join(dir, strings.ReplaceAll(s.String(), " ", "")+".gguf")
	return path, os.WriteFile(path, out, 0o600)
}

// batch is a pass through a chain.
type batch struct {
	rows    []engine.Row
	tokens  []int32
	outputs []engine.Output
}

func (b *batch) add(seq int, at int32, tokens []int32, output bool) {
	for i, id := range tokens {
		b.rows, b.tokens = append(b.rows, engine.Row{Seq: seq, Pos: at + int32(i)}), append(b.tokens, id)
	}
	if output {
		b.outputs = append(b.outputs, engine.Output{Row: len(b.rows) - 1, Sampling: &protocol.Sampling{TopLogprobs: 20}})
	}
}

// run returns the tokens that were drawn, by sequence.
func (b *batch) run(ctx context.Context, chain []engine.Engine) (map[int]sample.Token, error) {
	x := &engine.Batch{Rows: b.rows, Tokens: b.tokens}
	for i, e := range chain {
		if i == len(chain)-1 {
			x.Outputs = b.outputs
		}
		res, err := e.Run(ctx, x)
		if err != nil {
			return nil, fmt.Errorf("stage %d: %w", i+1, err)
		}
		if i == len(chain)-1 {
			out := map[int]sample.Token{}
			for k, t := range res.Tokens {
				out[b.rows[b.outputs[k].Row].Seq] = t
			}
			return out, nil
		}
		x = &engine.Batch{Rows: b.rows, Hidden: res.Hidden}
	}
	return nil, nil
}

// mustPass are the models that every run of the tests checks.
var mustPass = []string{
	"llama", "qwen35", "qwen35moe", "qwen3next", "gemma4", "gemma4 moe", "glm4moe", "minimax-m2", "phi3", "granite", "granitehybrid", "nemotron_h", "nemotron_h_moe",
	"lfm2", "lfm2moe", "smollm3", "olmo2 with windows", "exaone4", "seed_oss", "hunyuan-dense", "ernie4_5", "mistral4", "llama4", "deepseek2", "mamba2", "gemma3", "gpt-oss",
}

// wholeMustPass are those that every run checks in one stage, since there are no others.
var wholeMustPass = []string{"cogvlm", "rwkv7"}

// TestArchitectures holds the engine to the library's own answers, for the architectures
// that are always checked, whole and in three stages.
func TestArchitectures(t *testing.T) {
	library(t)
	for _, m := range random.Models() {
		parts := []int{1, stages}
		if slices.Contains(wholeMustPass, m.Name) {
			parts = parts[:1]
		} else if !slices.Contains(mustPass, m.Name) {
			continue
		}
		t.Run(m.Name, func(t *testing.T) {
			c, err := check(t.Context(), os.Getenv(Variable), t.TempDir(), m, parts...)
			if err != nil {
				t.Fatal(err)
			}
			for i, why := range c {
				if why != "" {
					t.Errorf("in %d stages: %s", i+1, why)
				}
			}
		})
	}
}

// The library ends its process at any model of PLM, with the reason in the error.
func TestAborts(t *testing.T) {
	library(t)
	all := random.Models()
	m := all[slices.IndexFunc(all, func(m random.Model) bool { return m.Name == "plm" })]
	path, err := m.Write(os.Getenv(Variable), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := engine.Config{Engine: engine.Llama, Path: path, To: m.Blocks, KVTokens: 256, MaxSeqs: 1, MaxBatch: 8, Threads: 1}
	e, err := engine.InChild()(t.Context(), cfg, nil)
	if err == nil {
		e.Close()
		t.Fatal("it was loaded")
	}
	if !errors.Is(err, engine.ErrLost) || !strings.Contains(err.Error(), "GGML_ASSERT(") {
		t.Error(err)
	}
}

// A context of MiniMax-M3 has one sequence.
func TestSingle(t *testing.T) {
	library(t)
	all := random.Models()
	m := all[slices.IndexFunc(all, func(m random.Model) bool { return m.Name == "minimax-m3" })]
	path, err := m.Write(os.Getenv(Variable), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	e, err := Load(t.Context(), engine.Config{Path: path, To: m.Blocks, KVTokens: 256, MaxSeqs: 8, MaxBatch: 8, Threads: 1, Exact: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if i := e.Info(); i.MaxSeqs != 1 || i.Exact {
		t.Errorf("%d sequences, exact: %v", i.MaxSeqs, i.Exact)
	}
	if _, err := e.Run(t.Context(), &engine.Batch{Rows: []engine.Row{{Seq: 1}}, Tokens: []int32{5}}); !errors.Is(err, engine.ErrBatch) {
		t.Errorf("a second sequence: %v", err)
	}
	if _, err := e.Run(t.Context(), &engine.Batch{Rows: []engine.Row{{}}, Tokens: []int32{5}, Outputs: []engine.Output{{}}}); err != nil {
		t.Error(err)
	}
	if k := e.(*local).kv; k.seqs != 1 {
		t.Errorf("a context for %d sequences", k.seqs)
	}
}

// Variables of the environment that TestTable reads: update has it check all models and
// write the table; one has it check one, and print what came of it.
const (
	update = "SHOAL_ARCHITECTURES_UPDATE"
	one    = "SHOAL_ARCHITECTURE"
)

// table is the file with the table, and what is before and behind it there.
const (
	table  = "../../../.github/ARCHITECTURES.md"
	before = "| model | one stage | two | three | note |\n|---|---|---|---|---|\n"
)

// TestTable: the table of what was checked has a row for each model.
func TestTable(t *testing.T) {
	if name := os.Getenv(one); name != "" {
		all := random.Models()
		m := all[slices.IndexFunc(all, func(m random.Model) bool { return m.Name == name })]
		c, err := check(t.Context(), os.Getenv(Variable), t.TempDir(), m, 1, 2, 3)
		fmt.Println(row(m, c, err))
		return
	}
	raw, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	head, rows, ok := strings.Cut(string(raw), before)
	if !ok {
		t.Fatalf("%s has no table", table)
	}
	if os.Getenv(update) != "" {
		library(t)
		rows = ""
		for _, m := range random.Models() {
			rows += checkApart(t, m) + "\n"
		}
		if err := os.WriteFile(table, []byte(head+before+rows), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(rows), "\n")
	if len(lines) != len(random.Models()) {
		t.Fatalf("%d rows for %d models", len(lines), len(random.Models()))
	}
	for i, m := range random.Models() {
		if cells := strings.Split(lines[i], "|"); len(cells) != 7 || strings.TrimSpace(cells[1]) != m.Name {
			t.Errorf("row %d is not that of %s: %s", i+1, m.Name, lines[i])
		} else if right := strings.Count(lines[i], "✔"); right < 3 && slices.Contains(mustPass, m.Name) || right < 1 && slices.Contains(wholeMustPass, m.Name) {
			t.Errorf("%s is always checked, and the table says: %s", m.Name, lines[i])
		}
	}
}

// checkApart returns a model's row. It is checked in a process of its own, which the
// library may end.
func checkApart(t *testing.T, m random.Model) string {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTable$")
	cmd.Env = append(os.Environ(), one+"="+m.Name, "GGML_NO_BACKTRACE=1")
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "| "+m.Name+" |") {
			return strings.TrimSpace(line)
		}
	}
	why := errors.New("the library ends the process")
	if _, text, ok := strings.Cut(string(out), "GGML_ASSERT"); ok {
		text, _, _ = strings.Cut(text, "\n")
		why = fmt.Errorf("%w: `%s`", why, text)
	} else if err == nil {
		why = errors.New("no result")
	}
	return row(m, checked{}, why)
}

// row is a line of the table.
func row(m random.Model, c checked, err error) string {
	cells, note := [stages]string{}, ""
	for i, why := range c {
		if cells[i] = "✔"; err != nil {
			cells[i] = "–"
		} else if why != "" {
			cells[i] = "–"
			if note == "" {
				note = why
			}
		}
	}
	if err != nil {
		note = err.Error()
	}
	note, _, _ = strings.Cut(note, "\n")
	if at := strings.Index(note, " [["); at > 0 {
		note = note[:at]
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |", m.Name, cells[0], cells[1], cells[2], strings.ReplaceAll(note, "|", "/"))
}
