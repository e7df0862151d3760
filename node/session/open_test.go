package session_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/protocol"
)

// tardy is a client that reaches one stage later than the others.
type tardy struct {
	sessionDialer
	to peer.ID
	by time.Duration
}

func (d tardy) OpenStage(ctx context.Context, p peer.ID, offer []byte) (session.Stream, error) {
	if p == d.to {
		time.Sleep(d.by)
	}
	return d.sessionDialer.OpenStage(ctx, p, offer)
}

// A stage that accepts long after the others, since its engine is slow to take back what
// it has kept, costs the session nothing: neither the others nor the stage itself take
// the client to be gone meanwhile.
func TestOpenLate(t *testing.T) {
	prompt := someTokens(3, 100)
	want, err := newPipeline(t, 6, 2, 4).ask(t.Context(), prompt, 20)
	if err != nil {
		t.Fatal(err)
	}
	for late := range 3 {
		t.Run(fmt.Sprint("stage ", late), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				p := newPipeline(t, 6, 2, 4)
				r := viaRelays(p, 100*time.Millisecond, 0) // so that the client waits long enough for the last
				for _, slow := range []time.Duration{0, 1090 * time.Millisecond} {
					e := p.engines[late]
					e.mu.Lock()
					e.stall = slow
					e.mu.Unlock()
					var got []int32
					d := tardy{sessionDialer{dialer{p.net, nodeID(-1)}}, nodeID(late), 50 * time.Millisecond}
					out, err := session.Run(t.Context(), d, &session.Request{
						Model: p.model, Route: p.route, Prompt: prompt, Sampling: &protocol.Sampling{MaxTokens: 20},
					}, func(tok *protocol.Token) error {
						got = append(got, tok.Id)
						return nil
					})
					if err != nil || !slices.Equal(got, want) {
						t.Errorf("accepted after %s: %v\n%v\n%v", out.Opened, err, got, want)
					}
					if slow > 0 && (out.Opened < slow || out.Cached == 0) {
						t.Errorf("accepted after %s, with %d positions kept", out.Opened, out.Cached)
					}
					time.Sleep(time.Until(began.Add(10 * time.Second))) // the stages keep what they have of it
				}
				r.end(p)
			})
		})
	}
}
