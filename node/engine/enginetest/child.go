package enginetest

import (
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/proc"
	"github.com/shoalnet/shoal/protocol"
)

// testChild: in a process of its own an engine computes the same.
func (b Backend) testChild(t *testing.T) {
	path := Tiny(t)
	prompt := []int32{1, 40, 77, 300, 12}
	p := &protocol.Sampling{Temperature: 1, Seed: 3, RepeatPenalty: 1.2, History: prompt}
	want := IDs(b.cut(t, path, 1).Generate(t, 0, prompt, 20, 64, p))
	c := b.cutBy(t, path, 2, engine.InChild(), nil)
	if got := IDs(c.Generate(t, 0, prompt, 20, 64, p)); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if _, err := c[0].Run(t.Context(), &engine.Batch{}); !errors.Is(err, engine.ErrBatch) {
		t.Errorf("an empty batch: %v", err)
	}
	if f := c[0].Info().Fence; f == nil || !slices.Contains(f.Holds, "environment") {
		t.Errorf("its fence: %+v", f)
	} else {
		t.Logf("behind a fence that holds %v, and not %v", f.Holds, f.Lacks)
	}
}

// testCrash: an engine whose process is killed, in the middle of passes, is lost, and
// another one's is not.
func (b Backend) testCrash(t *testing.T) {
	c := b.cutBy(t, b.models()[0].File(t, Blocks), 2, engine.InChild(), nil)
	child := c[0].(*engine.Child)
	failed := make(chan error, 1)
	first := make(chan struct{})
	go func() {
		for pos := int32(0); ; pos++ {
			if pos == 1 {
				close(first)
			}
			b := &engine.Batch{Rows: []engine.Row{{Pos: pos % 64}}, Tokens: []int32{1}}
			if _, err := child.Run(t.Context(), b); err != nil {
				failed <- err
				return
			}
			if pos%64 == 63 {
				if err := child.Remove(0, 0); err != nil {
					failed <- err
					return
				}
			}
		}
	}()
	<-first
	if err := proc.Signal(child.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, engine.ErrLost) {
		t.Errorf("killed in a pass: %v", err)
	}
	<-child.Done()
	if _, err := child.Run(t.Context(), &engine.Batch{Rows: make([]engine.Row, 1), Tokens: make([]int32, 1)}); !errors.Is(err, engine.ErrLost) {
		t.Errorf("after it was killed: %v", err)
	}
	if !errors.Is(child.Err(), engine.ErrLost) {
		t.Errorf("why it ended: %v", child.Err())
	}
	neighbour := &engine.Batch{Rows: make([]engine.Row, 1), Hidden: make([]float32, rWidth)}
	if _, err := c[1].Run(t.Context(), neighbour); err != nil {
		t.Errorf("another engine: %v", err)
	}
}
