package session_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/protocol"
)

// An answer that ends while its route is being repaired has not failed: whether its last
// token comes then, or one after which its caller wants no more.
func TestEndsInRepair(t *testing.T) {
	prompt := someTokens(5, 40)
	want, err := newPipeline(t, 9, 3, 6).ask(t.Context(), prompt, 20)
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	for name, n := range map[string]int{"its last token": len(want), "enough": 40} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := fleetOf(t, &pipeline{delay: time.Millisecond}, 9, 2, 3, 6)
				f.lag = 20 * time.Millisecond
				var got []int32
				begun := time.Time{}
				out, err := session.Run(t.Context(), sessionDialer{dialer{f.net, nodeID(-1)}}, &session.Request{
					Model: f.model, Route: f.route, Prompt: prompt, Step: 60 * time.Millisecond, Prefill: time.Second,
					Sampling: inThirds(n, ""), Replan: f.replan,
					Repair: func(_ session.Recovery, route []session.Hop) error {
						if begun = time.Now(); route != nil {
							t.Error("it was repaired before the end")
						}
						return nil
					},
				}, func(tok *protocol.Token) error {
					switch got = append(got, tok.Id); len(got) {
					case len(want) - 1: // word of it comes before the last token, and that before the stages have halted
						time.AfterFunc(20*time.Millisecond, func() {
							f.stages[1].Drain(true)
							f.set(f.down, nodeID(1), true)
						})
					case len(want):
						if n > len(want) {
							return enough
						}
					}
					return nil
				})
				if n == len(want) && err != nil || n > len(want) && !errors.Is(err, enough) {
					t.Error(err)
				}
				if !slices.Equal(got, want) || begun.IsZero() || len(out.Recoveries) > 0 {
					t.Errorf("a repair began at %v: %+v\n%v\n%v", begun, out.Recoveries, got, want)
				}
				for _, s := range f.stages {
					s.Close(nil)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}
