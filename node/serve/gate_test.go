package serve

import "testing"

func TestGate(t *testing.T) {
	var g gate
	open, _, changed := g.look()
	if !open {
		t.Error("closed from the start")
	}
	if !g.set(false, "the owner works") || g.set(false, "the owner works still") {
		t.Error("a change is one, no change is none")
	}
	<-changed
	open, why, changed := g.look()
	if open || why != "the owner works still" {
		t.Errorf("%v, %q", open, why)
	}
	g.set(true, "")
	<-changed
}
