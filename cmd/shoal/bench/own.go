package bench

import (
	"fmt"
	"io"
	"slices"

	"github.com/shoalnet/shoal/node/ahead/texts"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/testnet/link"
)

// ownResult is what `shoal bench ahead --model --json` prints.
type ownResult struct {
	Model  string     `json:"model"`
	Draft  string     `json:"draft,omitempty"`
	Nodes  int        `json:"nodes"`
	RTTMs  float64    `json:"rtt_ms"`
	Tokens int        `json:"tokens"`
	Texts  []aheadRow `json:"texts"`

	// Recycled is what guesses would be worth that are the likeliest tokens of the last time
	// when the token before came, as the last stage could send them.
	Recycled []recycled `json:"recycled"`
}

// recycled counts, in texts drawn at a temperature, the tokens that were among the likeliest
// four when the token before them came last.
type recycled struct {
	Temperature float64 `json:"temperature"`
	Tokens      int     `json:"tokens"`
	First       float64 `json:"first"`      // share that was the likeliest then
	RunnerUp    float64 `json:"runner_ups"` // share that was one of the other three
}

// drafted is the ratio that is wanted with a draft model.
const drafted = 1.7

// aheadOwn compares texts that a model writes by itself: those that it finds likeliest, and
// drawn ones, which repeat less.
func (b *bench) aheadOwn() error {
	p, err := link.Parse(b.RTT, "", "")
	if err != nil {
		return UsageError(err.Error())
	}
	res := ownResult{Model: b.model.Name(), Draft: b.Draft, Nodes: b.Nodes, RTTMs: millis(p.RTT), Tokens: b.Tokens}
	if err := b.checkNodes(res.Nodes); err != nil {
		return err
	}
	n, err := b.network(res.Nodes, b.Threads, p)
	if err != nil {
		return err
	}
	defer n.Close()
	for _, t := range []float64{0, 0.8} { // for the first answer the draft model is loaded
		r, err := b.recycle(n, t)
		if err != nil {
			return err
		}
		res.Recycled = append(res.Recycled, r)
	}
	want := 0.95
	if b.Draft != "" {
		want = drafted
	}
	for _, t := range []float64{0, 0.8} {
		row, err := b.compareAhead(n, fmt.Sprintf("its own, at temperature %g", t), want, func(round int) (*api.GenerateRequest, []int32) {
			return b.own(n, round, t), nil
		})
		if err != nil {
			return err
		}
		res.Texts = append(res.Texts, row)
	}
	return b.report(res, func(w io.Writer) {
		aheadTable(w, res.Texts)
		for _, r := range res.Recycled {
			fmt.Fprintf(w, "\nat temperature %g, the likeliest token of the last time after the same one\t%.2f of %d\n", r.Temperature, r.First, r.Tokens)
			fmt.Fprintf(w, "one of the next three then\t%.2f\n", r.RunnerUp)
		}
	})
}

// ownTexts is how many prompts there are for texts of a model's own.
const ownTexts = 3

// recycle counts what guesses from earlier runners-up would be worth.
func (b *bench) recycle(n *benchNet, temperature float64) (recycled, error) {
	r := recycled{Temperature: temperature}
	first, others := 0, 0
	for round := range ownTexts {
		b.progress("runners-up, text %d of %d", round+1, ownTexts)
		req := b.own(n, round, temperature)
		req.Sampling.Logprobs, req.Sampling.TopLogprobs = true, 4
		last, before := map[int32][]api.Top{}, int32(-1)
		err := n.client.Generate(b.ctx, req, func(e api.Event) error {
			if e.Token == nil {
				return nil
			}
			if before >= 0 {
				r.Tokens++
				switch slices.IndexFunc(last[before], func(t api.Top) bool { return t.ID == e.Token.ID }) {
				case -1:
				case 0:
					first++
				default:
					others++
				}
				last[before] = e.Token.Top
			}
			before = e.Token.ID
			return nil
		})
		if err != nil {
			return r, err
		}
	}
	r.First, r.RunnerUp = float64(first)/float64(max(1, r.Tokens)), float64(others)/float64(max(1, r.Tokens))
	return r, nil
}

// own is a request for a text of a round, which goes on from prose.
func (b *bench) own(n *benchNet, round int, temperature float64) *api.GenerateRequest {
	kinds := texts.All(b.Tokens)
	prose := kinds[slices.IndexFunc(kinds, func(k texts.Kind) bool { return k.Name == "prose" })].Texts
	prompt := prose[round%len(prose)].Prompt
	seed := uint64(round)
	return &api.GenerateRequest{
		Model: n.Model().ID, Raw: true, Prompt: prompt[:min(len(prompt), 600)], MaxTokens: b.Tokens, IgnoreEOS: true,
		Sampling: api.Sampling{Temperature: &temperature, Seed: &seed},
	}
}
