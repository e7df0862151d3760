package library

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// A text waits for others that are being tokenized, and no longer than its caller
// does.
func TestEncodeWaits(t *testing.T) {
	raw := tinymodel.GGUF()
	h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := text.New(h)
	if err != nil {
		t.Fatal(err)
	}
	l := &Library{encoding: semaphore.NewWeighted(encodeRoom)}
	encode := func(ctx context.Context) error {
		_, err := l.Encode(ctx, tokens, "short", text.EncodeOptions{})
		return err
	}
	if err := l.encoding.Acquire(t.Context(), encodeRoom); err != nil { // others make tokens, and are not done
		t.Fatal(err)
	}
	ctx, leave := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer leave()
	if err := encode(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it left, and was told %v", err)
	}
	waits := make(chan error)
	go func() { waits <- encode(t.Context()) }()
	l.encoding.Release(encodeRoom)
	if err := <-waits; err != nil {
		t.Error(err)
	}
}
