package library

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/semaphore"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/store"
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

// nowhere is peers of whom none has what is sought.
type nowhere struct{ *crowd }

func (nowhere) Fetch(ctx context.Context, _ cid.Cid, _ exchange.Want, _ func(exchange.Progress), _ ...exchange.Origin) error {
	<-ctx.Done()
	return ctx.Err()
}

// While a header that nobody has is sought, a tokenizer that is kept is there at once,
// and so is one whose header is here.
func TestToolsAtOnce(t *testing.T) {
	v := newVariants(t, 3)
	l := libraryOf(t, v, &crowd{})
	l.cfg.Exchange = nowhere{&crowd{}}
	add := func(i int) *store.Model {
		if _, err := l.Add(t.Context(), api.AddRequest{Source: v.files[i], Name: fmt.Sprint("m", i)}, nil); err != nil {
			t.Fatal(err)
		}
		m, err := l.store.Model(v.ids[i])
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	kept, whole := add(0), add(1)
	missing, err := l.store.AddManifest(v.raw[2], v.ids[2], "missing")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Tools(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	l.tools.wait() // nothing of it is left when the bubble begins
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithTimeout(t.Context(), time.Minute)
		defer leave()
		waits := make(chan error, 1)
		go func() {
			_, err := l.Tools(ctx, missing)
			waits <- err
		}()
		synctest.Wait() // it is sought
		if f := l.Fetches(); len(f) != 1 || f[0].Name != "missing" {
			t.Errorf("fetches are %v", l.Fetches())
		}
		begin := time.Now()
		for _, m := range []*store.Model{kept, whole} {
			if _, err := l.Tools(t.Context(), m); err != nil || time.Since(begin) > 0 {
				t.Errorf("%s: %v after %s", m.Name(), err, time.Since(begin))
			}
		}
		if err := <-waits; !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Minute {
			t.Errorf("a caller that left was told %v after %s", err, time.Since(begin))
		}
		l.Close()
	})
}
