package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/convert"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/library"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

// The parts declare what they need; here each gets it from the others.

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

// streams opens stage streams for stages and sessions.
type streams struct{ *network.Network }

func (s streams) open(ctx context.Context, p peer.ID, offer []byte) (*network.Stream, error) {
	return s.Network.Open(ctx, p, offer, protocol.StageID, protocol.StageID1)
}

type stageDialer struct{ streams }

func (d stageDialer) OpenStage(ctx context.Context, p peer.ID, offer []byte) (stage.Stream, error) {
	return d.open(ctx, p, offer)
}

type sessionDialer struct{ streams }

func (d sessionDialer) OpenStage(ctx context.Context, p peer.ID, offer []byte) (session.Stream, error) {
	return d.open(ctx, p, offer)
}

// busy says that sessions run on this node.
func (n *Node) busy() bool {
	for _, s := range n.stages.Stages() {
		if s.Status().Sessions > 0 {
			return true
		}
	}
	return n.asking.Load() > 0
}

// serves reports that this node serves a model, or is about to.
func (n *Node) serves(m *store.Model) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.serving, func(s *serving) bool { return s.model == m })
}

// ConvertChild is the hidden command by which this program converts.
const ConvertChild = "convert-child"

// convert makes a GGUF file of a directory, in a process of its own.
func (n *Node) convert(ctx context.Context, c library.Conversion) error {
	opt := convert.Options{
		Quantize: c.Quantize, Temp: c.Temp, Check: func(md interface{ Value(key string) any }) error { return engine.Check(md) }, Progress: c.Progress,
	}
	if !n.cfg.InProcess {
		return convert.InChild(ctx, []string{n.cfg.Command[0], ConvertChild}, c.Dir, c.Out, opt)
	}
	f, err := os.OpenFile(c.Out, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(convert.Directory(ctx, c.Dir, f, opt), f.Close())
}
