package stage_test

import (
	"context"
	"flag"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
)

// telling is ordered, with a log probability per label: what the last position holds, and
// the label.
type telling struct{ ordered }

func (e *telling) Run(ctx context.Context, p *engine.Batch) (*engine.Result, error) {
	res, err := e.ordered.Run(ctx, p)
	if err != nil || !e.last {
		return res, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, o := range p.Outputs {
		if len(o.Sampling.GetReadings()) != 1 {
			continue
		}
		row := p.Rows[o.Row]
		for _, id := range o.Sampling.Readings[0].Ids {
			res.Tokens[i].Labels = append(res.Tokens[i].Labels, tells(e.kv[row.Seq][row.Pos], id))
		}
	}
	return res, nil
}

func tells(v float64, id int32) float32 { return -5 - float32(v)/10000 - float32(id) }

// tellsOf is what two stages of that engine tell of labels after a sequence.
func tellsOf(ids, labels []int32) (out []float32) {
	var first, last []float64
	for i, id := range ids {
		first = append(first, mix(first, float64(id)))
		last = append(last, mix(last, first[i]))
	}
	for _, id := range labels {
		out = append(out, tells(last[len(last)-1], id))
	}
	return out
}

// newTellers is newArena with that engine.
func newTellers(t *testing.T) *arena {
	a := &arena{srv: stage.NewServer(nil, nil)}
	for i := range 2 {
		s := stage.New(stage.Config{
			Model: theModel, Span: protocol.Span{From: 2 * i, To: 2*i + 2}, Blocks: 4, Width: fuzzWidth, Vocab: fuzzVocab,
			KVTokens: fuzzKV, MaxSeqs: fuzzSeqs, MaxBatch: 16, MaxContext: 128, Dir: t.TempDir(),
		}, &telling{ordered{t: t, last: i == 1, kv: map[int][]float64{}}}, fromNode{a})
		a.stages = append(a.stages, s)
		a.srv.Add(s)
	}
	return a
}

// FuzzStageReadings: whatever a peer says of readings, an honest session beside it gets
// its own, the engine computes no position out of turn, and soon after the peer has gone
// everything is free.
func FuzzStageReadings(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "100x") // else a minute for each new input
	on := func(stream byte, frame ...byte) []byte { return append([]byte{24 + 8*stream + 4}, frame...) }
	open := func(half, readings byte) []byte {
		return []byte{0, half, 0, 0, 0, 1 - half, 0, 1, 4, 3, 0, 0, 0, 0, 0, 0, 0, readings}
	}
	step := func(base, back byte) []byte { return []byte{3, 3, 0, base, 1, 0, 0, 10, 20, 30, 40, back} }
	f.Add([]byte{0})
	f.Add(slices.Concat([]byte{0}, on(1, open(1, 3)...), on(0, open(0, 3)...), on(0, step(0, 0)...), on(0, step(3, 1)...), on(0, step(0, 1)...)))
	f.Add(slices.Concat([]byte{0}, on(0, open(0, 1)...), on(0, step(0, 1)...), on(0, step(0, 1)...), on(0, step(3, 1)...)))
	f.Add(slices.Concat([]byte{1}, on(0, open(0, 0)...), on(0, step(0, 1)...), []byte{24 + 1, 90}, on(0, 9, 0)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 800 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			a := newTellers(t)
			s := script(raw)
			a.deaf = s.next()&1 > 0
			asks := []session.Ask{{Tokens: []int32{3, 1, 4, 1, 5, 9, 2, 6}, Labels: []int32{1, 2}}}
			for i := range 12 {
				asks = append(asks, session.Ask{Keep: 3 + i%3, Tokens: []int32{int32(i), 7}[i%2:], Labels: []int32{int32(i)}})
			}
			begin := time.Now()
			told := make(chan struct{})
			go func() {
				defer close(told)
				readHonestly(t, a, asks)
			}()
			a.misbehave(s, func(s *script, f *protocol.Frame) {
				switch k := f.Kind.(type) {
				case *protocol.Frame_Open:
					k.Open.Readings = pick[uint32](s, 0, 1, 2, 3, protocol.MaxReadings, protocol.MaxReadings+1, math.MaxUint32)
					if k.Open.Sampling != nil && s.next()%4 > 0 {
						for range min(k.Open.Readings, 4) {
							k.Open.Sampling.Readings = append(k.Open.Sampling.Readings, &protocol.Labels{Ids: make([]int32, pick(s, 1, 2, 0, protocol.MaxLabels+1))})
						}
					}
				case *protocol.Frame_Step:
					k.Step.Back = s.next()%2 > 0
				}
			})
			<-told
			if took := time.Since(begin); took > 5*time.Minute {
				t.Errorf("it took %s", took)
			}
			time.Sleep(12 * time.Minute) // silence, what idles, and prefixes that are kept
			for i, s := range a.stages {
				if st := s.Status(); st.Sessions != 0 || st.KVFree != fuzzKV {
					t.Errorf("stage %d still holds %+v", i, st)
				}
				s.Close(nil)
			}
			time.Sleep(time.Minute) // for sockets that take nothing to be given up
		})
	})
}

// readHonestly has the honest client's readings made. The stages may be full for a while, or
// have its session make way: it asks again, as a client does.
func readHonestly(t *testing.T, a *arena, asks []session.Ask) {
	req := &session.ReadRequest{
		Model: theModel, Vocab: fuzzVocab, Wait: time.Minute, Asks: asks,
		Route: []session.Hop{{Peer: theNode, Span: protocol.Span{From: 0, To: 2}}, {Peer: theNode, Span: protocol.Span{From: 2, To: 4}}},
	}
	var err error
	for range 20 {
		var all []int32
		if _, err = session.Read(t.Context(), fromClient{a}, req, func(i int, r session.Reading) error {
			all = append(all[:asks[i].Keep], asks[i].Tokens...)
			if want := tellsOf(all, asks[i].Labels); !slices.Equal(r.Logprobs, want) {
				return fmt.Errorf("reading %d: %v, not %v", i, r.Logprobs, want)
			}
			return nil
		}); err == nil {
			return
		}
		time.Sleep(5 * time.Second)
	}
	t.Error("the honest session got no readings: ", err)
}
