package bench

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/cmd/shoal/term"
	"github.com/shoalnet/shoal/contrib/scriptmodel"
	"github.com/shoalnet/shoal/node/ahead/texts"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/testnet/link"
)

// aheadRow is a kind of text in what `shoal bench ahead --json` prints.
type aheadRow struct {
	Text       string  `json:"text"`
	Plain      spread  `json:"plain_tokens_per_s"`
	Ahead      spread  `json:"ahead_tokens_per_s"`
	Ratio      spread  `json:"ratio"`
	Sent       float64 `json:"sent_per_token"` // guesses
	Kept       float64 `json:"kept_per_token"`
	SameTokens bool    `json:"same_tokens"`
	Target     target  `json:"target"`
}

// aheadResult is what `shoal bench ahead --json` prints.
type aheadResult struct {
	Model  string     `json:"model"`
	Nodes  int        `json:"nodes"`
	RTTMs  float64    `json:"rtt_ms"`
	Tokens int        `json:"tokens"`
	Texts  []aheadRow `json:"texts"`
	Mean   target     `json:"geometric_mean"` // of the ratios
}

// aheadTargets are the ratios that are wanted; of other texts it is 0.95.
var aheadTargets = map[string]float64{"file": 5, "quotes": 1.6, "json": 1.6}

// Ahead compares answers with and without guesses that run ahead of the ring, by the kind
// of text that the last stage wants to write.
//
// The model is one that has no will of its own (scriptmodel.Dictation): each request
// demands a text, by a grammar that allows no other. So a text costs what any of the
// model's costs, and no node but the last knows what comes next. With Options.Model that
// model writes what it likes instead, with Options.Draft guessing.
func Ahead(ctx context.Context, sh Shell, o Options) error {
	if o.Model != "" {
		return prepared(ctx, sh, o, (*bench).aheadOwn)
	}
	if o.Draft != "" {
		return UsageError("--draft needs --model: the texts are written by a model of this benchmark's own, for which none can guess")
	}
	// A request cannot demand a text and expect another one: that is for the simulations.
	kinds := slices.DeleteFunc(texts.All(o.Tokens), func(k texts.Kind) bool { return k.Texts[0].Expected != "" })
	words := texts.NewVocabulary(kinds)
	dir, err := os.MkdirTemp("", "shoal-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file, err := scriptmodel.Dictation{Name: "dictation", Pieces: words.Pieces, Blocks: max(o.Nodes, 4)}.GGUF()
	if err != nil {
		return err
	}
	o.Model = filepath.Join(dir, "dictation.gguf")
	if err := os.WriteFile(o.Model, file, 0o600); err != nil {
		return err
	}
	return prepared(ctx, sh, o, func(b *bench) error { return b.ahead(kinds, words) })
}

// dictated is a text as a request has it.
type dictated struct {
	prompt, tokens []int32
	grammar        string // that allows the text of tokens alone
}

func (b *bench) dictate(t texts.Text, words *texts.Vocabulary) dictated {
	d := dictated{prompt: words.Tokens(t.Prompt), tokens: words.Tokens(t.Answer)}
	d.tokens = d.tokens[:min(len(d.tokens), b.Tokens)]
	var text strings.Builder
	for _, id := range d.tokens {
		text.WriteString(words.Pieces[id])
	}
	d.grammar = exactly(text.String())
	return d
}

func (b *bench) ahead(kinds []texts.Kind, words *texts.Vocabulary) error {
	p, err := link.Parse(b.RTT, "", "")
	if err != nil {
		return UsageError(err.Error())
	}
	res := aheadResult{Model: b.model.Name(), Nodes: b.Nodes, RTTMs: millis(p.RTT), Tokens: b.Tokens}
	if err := b.checkNodes(res.Nodes); err != nil {
		return err
	}
	n, err := b.network(res.Nodes, b.Threads, p)
	if err != nil {
		return err
	}
	defer n.Close()
	logs := 0.0
	for _, k := range kinds {
		row, err := b.aheadOf(n, k, words)
		if err != nil {
			return fmt.Errorf("%s: %w", k.Name, err)
		}
		logs += math.Log(row.Ratio.Median)
		res.Texts = append(res.Texts, row)
	}
	res.Mean = atLeast(2, math.Exp(logs/float64(len(kinds))))
	return b.report(res, func(w io.Writer) {
		aheadTable(w, res.Texts)
		fmt.Fprintf(w, "\ngeometric mean of the ratios\t%.2f: %s\n", res.Mean.Got, res.Mean)
	})
}

// aheadTable prints rows for people.
func aheadTable(w io.Writer, rows []aheadRow) {
	fmt.Fprintf(w, "text\tplain\tahead\tratio\tguesses sent, kept per token\n")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.2f, %.2f\t%s\n", r.Text, term.Rate(r.Plain.Median), term.Rate(r.Ahead.Median), r.Ratio.ratio(), r.Sent, r.Kept, r.Target)
		if !r.SameTokens {
			fmt.Fprintf(w, "\tthe answers differ\n")
		}
	}
}

// aheadOf measures the texts of a kind, one per round.
func (b *bench) aheadOf(n *benchNet, k texts.Kind, words *texts.Vocabulary) (aheadRow, error) {
	want, ok := aheadTargets[k.Name]
	if !ok {
		want = 0.95
	}
	return b.compareAhead(n, k.Name, want, func(round int) (*api.GenerateRequest, []int32) {
		d := b.dictate(k.Texts[round%len(k.Texts)], words)
		return &api.GenerateRequest{
			Model: n.Model().ID, Raw: true, PromptIDs: d.prompt, Grammar: d.grammar, MaxTokens: len(d.tokens), Sampling: api.Sampling{Temperature: new(float64)},
		}, d.tokens
	})
}

// compareAhead measures the answers to requests, one per round, with guesses and without.
// request also returns the tokens of the answer; nil: not known.
func (b *bench) compareAhead(n *benchNet, name string, want float64, request func(round int) (*api.GenerateRequest, []int32)) (aheadRow, error) {
	row := aheadRow{Text: name, SameTokens: true}
	var plain, fast []float64
	tokens := 0
	for round := range b.Rounds {
		b.progress("%s, round %d of %d", name, round+1, b.Rounds)
		req, ids := request(round)
		for i := range 2 {
			req.Ahead = []string{"auto", "off"}[(i+round+1)%2]
			a, guesses, err := b.askAhead(n, req)
			if err != nil {
				return row, err
			}
			if ids == nil {
				ids = a.ids
			}
			row.SameTokens = row.SameTokens && slices.Equal(a.ids, ids)
			if req.Ahead == "off" {
				plain = append(plain, a.rate())
				continue
			}
			fast, tokens = append(fast, a.rate()), tokens+len(a.ids)
			row.Sent, row.Kept = row.Sent+float64(guesses.Sent), row.Kept+float64(guesses.Kept)
		}
	}
	row.Plain, row.Ahead, row.Ratio = spreadOf(plain), spreadOf(fast), ratios(fast, plain)
	row.Sent, row.Kept = row.Sent/float64(tokens), row.Kept/float64(tokens)
	row.Target = atLeast(want, row.Ratio.Median)
	return row, nil
}

// askAhead has the network answer a request.
func (b *bench) askAhead(n *benchNet, req *api.GenerateRequest) (a *answer, guesses api.Ahead, err error) {
	a = &answer{begin: time.Now()}
	err = n.client.Generate(b.ctx, req, func(e api.Event) error {
		if e.Done != nil && e.Done.Ahead != nil {
			guesses = *e.Done.Ahead
		}
		return a.take(e)
	})
	if err != nil {
		return nil, guesses, err
	}
	return a, guesses, a.check()
}
