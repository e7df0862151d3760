package main

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/link"
)

// TestDrafterLost: the process of a drafter hangs, is killed, and comes again, and answers
// are the same as without.
func TestDrafterLost(t *testing.T) {
	t.Parallel()
	twin := enginetest.Twin(t, enginetest.Tiny(t), 8)
	net := processes(t, testnet.Config{Nodes: 3, Link: link.Params{RTT: 40 * time.Millisecond}, Args: []string{"--draft", twin}})
	first := net.Nodes()[0]
	c := newClient(t, net)
	ask := []string{"--raw", "--temperature", "0", "-n", "16", "Once upon a time"}
	want := c.prompt(append(slices.Clone(ask), "--ahead", "off")...)
	same := func(when string) {
		t.Helper()
		if got := c.prompt(ask...); !slices.Equal(got.Tokens, want.Tokens) {
			t.Errorf("%s: %v, want %v", when, got.Tokens, want.Tokens)
		}
	}
	loaded := func(other int) (pid int) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); same("while the drafter loads") {
			for _, v := range statusOf(t, first).Serving {
				if v.Draft != nil && v.Draft.EnginePID != 0 && v.Draft.EnginePID != other {
					return v.Draft.EnginePID
				}
			}
		}
		t.Skip("the machine is too busy for a drafter to pay")
		return 0
	}
	pid := loaded(0)
	same("with a drafter")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	same("with a drafter that hangs")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	same("with a drafter that was killed")
	loaded(pid)
	same("with another drafter")
}

func TestDraftText(t *testing.T) {
	for want, d := range map[string]*api.Draft{
		"":              nil,
		"small":         {Name: "small", Loaded: true},
		"none: no room": {Name: "small", Trouble: "no \x1broom"},
		"small, 75% of 8 guesses right, 4.5 ms each":                                      {Name: "small", Loaded: true, Right: 6, Wrong: 2, TokenMs: 4.5},
		"small, 0% of 1 guesses right, 4.5 ms each; not loaded: nobody wants guesses now": {Name: "small", Wrong: 1, TokenMs: 4.5},
	} {
		if got := draftText(d); got != want {
			t.Errorf("%+v: %q, want %q", d, got, want)
		}
	}
}
