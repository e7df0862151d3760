package serve

import (
	"context"
	"errors"
	"fmt"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
)

// stageEngine is an engine as a stage wants it.
type stageEngine struct{ engine.Engine }

func (e stageEngine) Run(ctx context.Context, p *stage.Pass) (*stage.Result, error) {
	b := &engine.Batch{Tokens: p.Tokens, Hidden: p.Hidden, Rows: make([]engine.Row, len(p.Rows))}
	for i, r := range p.Rows {
		b.Rows[i] = engine.Row(r)
	}
	for _, d := range p.Draws {
		s := d.Sampling
		history := append(append([]int32(nil), s.History...), d.Sampled...)
		b.Outputs = append(b.Outputs, engine.Output{Row: d.Row, Position: d.Position, History: history, Allowed: d.Allowed, Params: sample.Params{
			Temperature: s.Temperature, TopK: int(s.TopK), TopP: s.TopP, MinP: s.MinP,
			RepeatPenalty: s.RepeatPenalty, PresencePenalty: s.PresencePenalty, FrequencyPenalty: s.FrequencyPenalty,
			Seed: s.Seed, Logprobs: s.Logprobs, TopLogprobs: int(s.TopLogprobs), Prompt: len(s.History),
		}})
	}
	res, err := e.Engine.Run(ctx, b)
	if err != nil {
		return nil, lostAs(err)
	}
	out := &stage.Result{Hidden: res.Hidden, Compute: res.Compute}
	for _, t := range res.Tokens {
		d := stage.Drawn{ID: t.ID, Logprob: t.Logprob}
		for _, a := range t.Top {
			d.Top = append(d.Top, &protocol.TopToken{Id: a.ID, Logprob: a.Logprob})
		}
		out.Drawn = append(out.Drawn, d)
	}
	return out, nil
}

func (e stageEngine) Remove(seq int, from int32) error { return lostAs(e.Engine.Remove(seq, from)) }

func (e stageEngine) CopyPrefix(src, dst int, n int32) error {
	return lostAs(e.Engine.CopyPrefix(src, dst, n))
}

func lostAs(err error) error {
	if errors.Is(err, engine.ErrLost) {
		return fmt.Errorf("%w: %w", stage.ErrEngineLost, err)
	}
	return err
}
