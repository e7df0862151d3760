package remedy

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
)

func TestOf(t *testing.T) {
	if For(nil, FreeSpace) != nil || Of(nil) != nil || Of(io.EOF) != nil {
		t.Error("what has no error has no remedy")
	}
	err := fmt.Errorf("starting: %w", For(fmt.Errorf("outer: %w", For(io.EOF, FreeSpace)), ServeModel, "tiny"))
	r := Of(err)
	if r == nil || r.Kind != ServeModel || !slices.Equal(r.Args, []string{"tiny"}) {
		t.Errorf("%+v, want the outermost remedy", r)
	}
	if !errors.Is(err, io.EOF) || err.Error() != "starting: outer: EOF" {
		t.Errorf("%v: a remedy changes an error", err)
	}
}
