package serve

import (
	"context"
	"testing"
	"time"
)

func TestGate(t *testing.T) {
	var g gate
	g.wait(t.Context(), func(string) { t.Error("the gate is open from the start") })
	lent, stop := g.while(t.Context())
	defer stop()
	if !g.set(false, "the owner works") || g.set(false, "the owner works still") {
		t.Error("a change is one, no change is none")
	}
	<-lent.Done()
	told := make(chan string, 1)
	open := make(chan struct{})
	go func() {
		g.wait(context.Background(), func(why string) { told <- why })
		close(open)
	}()
	if why := <-told; why != "the owner works still" {
		t.Errorf("told %q", why)
	}
	select {
	case <-open:
		t.Error("open though it was closed")
	case <-time.After(10 * time.Millisecond):
	}
	g.set(true, "")
	<-open
}
