package session_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/testnet/link"
	"github.com/shoalnet/shoal/testnet/sim"
)

// long is a prompt that takes long over a distance.
const long = 2048

// prefilled is an answer to a long prompt in virtual time.
type prefilled struct {
	tokens []int32
	out    *session.Outcome
}

// prefill has prompts answered one after another over three stages in virtual time, each
// with what set changes in its request.
func prefill(t *testing.T, l link.Params, settings pipeline, set ...func(*session.Request)) (all []prefilled) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		net := sim.New(l)
		p := &settings
		d := p.buildVirtual(t, net, 9, cuts[3]...)
		for i, set := range set {
			req := &session.Request{
				Model: p.model, Route: p.route, Prompt: someTokens(uint64(i), long), Sampling: &protocol.Sampling{MaxTokens: 3}, Prefill: time.Minute,
			}
			set(req)
			var got []int32
			out, err := session.Run(t.Context(), d, req, func(tok *protocol.Token) error {
				got = append(got, tok.Id)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			all = append(all, prefilled{got, out})
			time.Sleep(time.Second)
		}
		for _, s := range p.stages {
			s.Close(nil)
		}
		if err := net.Close(); err != nil {
			t.Error(err)
		}
	})
	return all
}

// asIs asks with nothing changed.
func asIs(*session.Request) {}

// The stages compute a prompt at the same time, each another part of it: it takes little
// longer than the slowest stage needs, over connections that have carried nothing, too.
func TestPrefillOverDistance(t *testing.T) {
	const rtt, row = 80 * time.Millisecond, time.Millisecond
	settings := pipeline{delay: row, more: row, wide: 512}
	bound := (long*row + 3*(rtt/2+row)) * 5 / 4
	got := prefill(t, link.Params{RTT: rtt}, settings, asIs)[0]
	t.Logf("first token after %s, %.2f times the slowest stage's time and a trip", got.out.TTFT, 1.25*float64(got.out.TTFT)/float64(bound))
	if got.out.TTFT > bound {
		t.Errorf("more than %s", bound)
	}
	settings.wide = 0 // which changes no token
	whole := prefill(t, link.Params{RTT: rtt}, settings, func(r *session.Request) { r.Chunk = 512 })
	if !slices.Equal(whole[0].tokens, got.tokens) {
		t.Errorf("%v, in shorter chunks %v", whole[0].tokens, got.tokens)
	}
	inTurn := 3 * (long*row + rtt/2)
	t.Logf("%.2f times as fast as one stage after the other (%s)", inTurn.Seconds()/got.out.TTFT.Seconds(), inTurn)
	if inTurn.Seconds() < 1.8*got.out.TTFT.Seconds() {
		t.Errorf("first token after %s, where one stage after the other takes %s", got.out.TTFT, inTurn)
	}
}
