package stage

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
)

const (
	passCost = 20 * time.Millisecond // of reading the weights
	rowCost  = time.Millisecond
)

// priced is an engine whose passes take time.
type priced struct{ idle }

func (priced) Run(_ context.Context, b *engine.Batch) (*engine.Result, error) {
	time.Sleep(passCost + time.Duration(len(b.Rows))*rowCost)
	return &engine.Result{Tokens: make([]sample.Token, len(b.Outputs))}, nil
}

// pricedStage is a stage of a whole model on such an engine.
func pricedStage(t *testing.T, l Lending) (*Stage, *Server) {
	t.Helper()
	s := New(Config{
		Model: protocol.ModelKey(cid.Undef), Span: protocol.Span{From: 0, To: 4}, Blocks: 4, Width: 8, Vocab: 100,
		KVTokens: 16384, MaxSeqs: 32, MaxBatch: 128, MaxContext: 2048, Row: rowCost, Dir: t.TempDir(), Lending: l,
	}, priced{}, nobody{})
	v := NewServer(nil, nil)
	v.Add(s)
	return s, v
}

// askLong sends a prompt of chunks of 64 tokens, and returns after how long its first token
// comes; -1: it was refused or ended. Its session goes on until it is ended.
func askLong(t *testing.T, ctx context.Context, s *Stage, v *Server, p peer.ID, id uint16, chunks int) (time.Duration, *talk) {
	begun, ids := time.Now(), make([]int32, 64)
	o := someOpen(s, 64*chunks+200, id)
	o.Sampling.PromptTokens, o.Sampling.MaxTokens = uint32(64*chunks), 0
	k := begin(t, ctx, v, p, o)
	for f := range k.frames {
		switch {
		case f.GetOpened() != nil:
			for i := range chunks {
				st := stepOf(64*i, ids)
				st.GetStep().Sample = i == chunks-1
				k.say(t, st)
			}
		case f.GetToken() != nil:
			return time.Since(begun), k
		case f.GetFail() != nil:
			return -1, k
		}
	}
	return -1, k
}

// Two hundred strangers who always want something delay the first token of a member, and
// of the owner, by no more than a fifth, whenever it is that they ask; and the strangers
// are served meanwhile.
func TestMemberFirst(t *testing.T) {
	rules := lender{"own": {Class: "own", Own: true, Share: 1}, "member": {Class: "members", Share: 1}}
	const chunks = 10
	first := func(t *testing.T, strangers int, p peer.ID, after time.Duration) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			s, v := pricedStage(t, rules)
			ctx, cancel := context.WithCancel(t.Context())
			for i := range strangers {
				go func() {
					for n := 0; ctx.Err() == nil; n++ {
						_, k := askLong(t, ctx, s, v, peer.ID(fmt.Sprint("stranger ", i)), uint16(i), 1+i%4)
						for range k.frames { // all of its answer
						}
						time.Sleep(500 * time.Millisecond) // as a refusal says
					}
				}()
			}
			time.Sleep(time.Second + after)
			served := s.Status().Rows
			took, _ = askLong(t, ctx, s, v, p, 1000, chunks)
			if rows := s.Status().Rows - served - 64*chunks; strangers > 0 && rows <= 0 {
				t.Errorf("%d rows of strangers meanwhile", rows)
			}
			cancel()
			time.Sleep(2 * time.Second)
			s.Close(errors.New("the test is over"))
		})
		return took
	}
	for p, moments := range map[peer.ID][]time.Duration{"member": {0, 47 * time.Millisecond}, "own": {70 * time.Millisecond}} {
		alone := first(t, 0, p, 0)
		for _, after := range moments {
			took := first(t, 200, p, after)
			t.Logf("%q: %s alone, %s among 200 strangers (%+.1f %%)", p, alone, took, 100*(took-alone).Seconds()/alone.Seconds())
			if took < alone || took > alone+alone/5 {
				t.Errorf("%q: the first token comes after %s, and after %s alone", p, took, alone)
			}
		}
	}
}

// Classes that always have work get time by their weights, a cap holds though nobody else
// wants the time, and without others a class has all of it.
func TestShares(t *testing.T) {
	for name, c := range map[string]struct {
		grants map[peer.ID]Grant
		want   map[peer.ID]float64 // part of all the time
	}{
		"alone":       {map[peer.ID]Grant{"a": {Class: "a", Share: 0.1}}, map[peer.ID]float64{"a": 1}},
		"equal":       {map[peer.ID]Grant{"a": {Class: "a", Share: 0.5}, "b": {Class: "b", Share: 0.5}}, map[peer.ID]float64{"a": 0.5, "b": 0.5}},
		"a fifth":     {map[peer.ID]Grant{"a": {Class: "a", Share: 1}, "b": {Class: "b", Share: 0.2}}, map[peer.ID]float64{"a": 1 / 1.2, "b": 0.2 / 1.2}},
		"three":       {map[peer.ID]Grant{"a": {Class: "a", Share: 1}, "b": {Class: "b", Share: 0.5}, "c": {Class: "c", Share: 0.5}}, map[peer.ID]float64{"a": 0.5, "b": 0.25, "c": 0.25}},
		"capped":      {map[peer.ID]Grant{"a": {Class: "a", Share: 1, Cap: 0.3}}, map[peer.ID]float64{"a": 0.3}},
		"one capped":  {map[peer.ID]Grant{"a": {Class: "a", Share: 1, Cap: 0.1}, "b": {Class: "b", Share: 0.5}}, map[peer.ID]float64{"a": 0.1, "b": 0.9}},
		"same class":  {map[peer.ID]Grant{"a": {Class: "x", Share: 1}, "b": {Class: "x", Share: 1}, "c": {Class: "y", Share: 1}}, map[peer.ID]float64{"c": 0.5}},
		"tiny weight": {map[peer.ID]Grant{"a": {Class: "a", Share: 1}, "b": {Class: "b", Share: 0.01}}, map[peer.ID]float64{"a": 1 / 1.01, "b": 0.01 / 1.01}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := pricedStage(t, nil)
				s.cancel(errors.New("the loop is this test"))
				<-s.done
				all := map[peer.ID]*session{}
				for p, g := range c.grants {
					o := open(200, p[0])
					sess := newSession(s, key{[16]byte(o.Session), 0}, o, sink{p}, 0)
					sess.group, sess.grant = string(p), g
					all[p], s.sessions[sess.key] = sess, sess
				}
				const span = 100 * time.Second
				spent, begun := map[peer.ID]float64{}, time.Now()
				for time.Since(begun) < span {
					s.mu.Lock()
					for _, sess := range all {
						if len(sess.pending) == 0 {
							s.turn++
							sess.pending = []*step{{rows: 64, turn: s.turn}}
						}
					}
					s.mu.Unlock()
					begin := time.Now()
					batch, _, _, _ := s.gather()
					if len(batch) == 0 {
						time.Sleep(time.Millisecond)
						continue
					}
					n := 0
					for _, w := range batch {
						n += w.step.rows
					}
					cost := passCost + time.Duration(n)*rowCost
					for _, w := range batch {
						spent[w.sess.peer] += cost.Seconds() * float64(w.step.rows) / float64(n)
					}
					time.Sleep(cost)
					s.mu.Lock()
					s.charge(batch, begin, cost)
					s.mu.Unlock()
				}
				for p, want := range c.want {
					if got := spent[p] / span.Seconds(); got < want-0.03 || got > want+0.03 {
						t.Errorf("%s has %.3f of the time, and %.3f are due", p, got, want)
					}
				}
				for _, sess := range all {
					sess.end(nil)
				}
			})
		})
	}
}
