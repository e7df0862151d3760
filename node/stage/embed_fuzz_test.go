package stage_test

import (
	"context"
	"errors"
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

const fuzzTextRows = 32 // rows of a pass

// reader is an engine of an embedding model: a text's embedding depends on all of its
// rows. It takes whole texts alone.
type reader struct {
	t    *testing.T
	last bool
}

func (e *reader) Remove(int, int32) error          { return nil }
func (e *reader) CopyPrefix(int, int, int32) error { return errors.New("texts have no prefix") }

func (e *reader) Run(_ context.Context, p *engine.Batch) (*engine.Result, error) {
	time.Sleep(5 * time.Millisecond)
	info := engine.Info{To: 4, Blocks: 4, Width: fuzzWidth, Vocab: fuzzVocab, MaxBatch: fuzzTextRows, MaxSeqs: fuzzSeqs, Pooling: engine.PoolLast}
	if info.From = 0; p.Tokens == nil {
		info.From = 2
	}
	if err := p.Check(&info); err != nil {
		e.t.Error(err)
		return nil, err
	}
	res := &engine.Result{Hidden: make([]float32, len(p.Rows)*fuzzWidth)}
	var past []float64
	for i, row := range p.Rows {
		if row.Pos == 0 {
			past = nil
		}
		in := 0.0
		if p.Tokens != nil {
			in = float64(p.Tokens[i])
		} else {
			in = float64(p.Hidden[i*fuzzWidth])
		}
		past = append(past, mix(past, in))
		res.Hidden[i*fuzzWidth] = float32(past[row.Pos])
		if ends := i+1 == len(p.Rows) || p.Rows[i+1].Pos == 0; ends && e.last {
			res.Embeddings = append(res.Embeddings, vectorOf(past[row.Pos]))
		}
	}
	if e.last {
		res.Hidden = nil
	}
	return res, nil
}

// vectorOf is an embedding whose first two numbers say which it is.
func vectorOf(v float64) []float32 {
	e := make([]float32, fuzzWidth)
	e[0], e[1] = float32(v), 1000
	return e
}

// readAs is the embedding of a text, as two stages of that engine make it.
func readAs(text []int32) []float32 {
	var first, last []float64
	for i, id := range text {
		first = append(first, mix(first, float64(id)))
		last = append(last, mix(last, first[i]))
	}
	e := vectorOf(last[len(last)-1])
	length := float32(math.Hypot(float64(e[0]), float64(e[1])))
	e[0], e[1] = e[0]/length, e[1]/length
	return e
}

// newReaders is newArena with the two halves of an embedding model.
func newReaders(t *testing.T) *arena {
	a := &arena{srv: stage.NewServer(nil, nil)}
	for i := range 2 {
		s := stage.New(stage.Config{
			Model: theModel, Span: protocol.Span{From: 2 * i, To: 2*i + 2}, Blocks: 4, Width: fuzzWidth, Vocab: fuzzVocab,
			KVTokens: fuzzTextRows, MaxSeqs: 2 * fuzzSeqs, MaxBatch: fuzzTextRows, MaxContext: fuzzTextRows,
			Pooling: engine.PoolLast, Embedded: fuzzWidth, Texts: fuzzSeqs,
		}, &reader{t: t, last: i == 1}, fromNode{a})
		a.stages = append(a.stages, s)
		a.srv.Add(s)
	}
	return a
}

// embed has the honest client's session of texts run to its end.
func (a *arena) embed(ctx context.Context, texts [][]int32) (got [][]float32, err error) {
	req := &session.EmbedRequest{
		Model: theModel, Texts: texts, Width: fuzzWidth, Unit: true, Wait: time.Minute,
		Route: []session.Hop{{Peer: theNode, Span: protocol.Span{From: 0, To: 2}}, {Peer: theNode, Span: protocol.Span{From: 2, To: 4}}},
	}
	err = session.Embed(ctx, fromClient{a}, req, func(first int, list [][]float32) error {
		if first != len(got) {
			return fmt.Errorf("text %d, where %d was due", first, len(got))
		}
		got = append(got, list...)
		return nil
	})
	return got, err
}

// FuzzStageTexts: whatever a peer says to a model that makes embeddings, an honest
// session beside it gets its embeddings, the engine gets whole texts alone, and soon
// after the peer has gone everything is free.
func FuzzStageTexts(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "100x") // else a minute for each new input
	on := func(stream byte, frame ...byte) []byte { return append([]byte{24 + 8*stream + 4}, frame...) }
	open := func(half, embed byte) []byte {
		return []byte{0, half, 0, 0, 0, 1 - half, 0, 1, 4, 3, 0, 0, 0, 0, 0, 0, 0, embed}
	}
	step := func(base byte, ends ...byte) []byte {
		return slices.Concat([]byte{3, 3, 0, base, 1, 0, 1, 10, 20, 30, 40, byte(len(ends))}, ends)
	}
	f.Add([]byte{0})
	f.Add(slices.Concat([]byte{0}, on(1, open(1, 3)...), on(0, open(0, 3)...), on(0, step(0, 2, 1)...), on(0, step(3)...), on(0, step(4, 1)...)))
	f.Add(slices.Concat([]byte{0}, on(0, open(0, 1)...), on(0, step(0)...), on(0, step(3, 3, 2)...)))
	f.Add(slices.Concat([]byte{1}, on(0, open(0, 0)...), on(0, step(0, 4)...), []byte{24 + 1, 90}, on(0, 9, 0)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 800 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			a := newReaders(t)
			s := script(raw)
			a.deaf = s.next()&1 > 0
			var texts [][]int32
			for i := range 12 {
				texts = append(texts, []int32{3, 1, 4, 1, 5, 9, 2, 6}[i%8:])
			}
			begin := time.Now()
			told := make(chan struct{})
			go func() {
				defer close(told)
				got, err := a.embed(t.Context(), texts)
				if err != nil || len(got) != len(texts) {
					t.Errorf("the honest session got %d embeddings of %d (%v)", len(got), len(texts), err)
				}
				for i, e := range got {
					if want := readAs(texts[i]); math.Abs(float64(e[0]-want[0])) > 1e-6 {
						t.Errorf("text %d: %v, not %v", i, e[:2], want[:2])
					}
				}
			}()
			a.misbehave(s, func(s *script, f *protocol.Frame) {
				switch k := f.Kind.(type) {
				case *protocol.Frame_Open:
					k.Open.Embed = pick[uint32](s, 0, 1, 4, 32, 33, math.MaxUint32)
					if s.next()%4 > 0 {
						k.Open.Sampling, k.Open.Prefix = nil, nil
					}
				case *protocol.Frame_Step:
					for range s.next() % 5 {
						k.Step.Ends = append(k.Step.Ends, pick[uint32](s, 0, 1, 2, 4, 8, 16, math.MaxUint32))
					}
				}
			})
			<-told
			if took := time.Since(begin); took > 5*time.Minute {
				t.Errorf("it took %s", took)
			}
			time.Sleep(3 * time.Minute) // silence, and what idles
			for i, s := range a.stages {
				if st := s.Status(); st.Sessions != 0 {
					t.Errorf("stage %d still holds %+v", i, st)
				}
				s.Close(nil)
			}
			time.Sleep(time.Minute) // for sockets that take nothing to be given up
		})
	})
}
