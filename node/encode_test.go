package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/text"
)

// quiet is a node that talks to nobody, and has the tiny model.
func quiet(t *testing.T) *Node {
	t.Helper()
	n, err := New(Config{Home: t.TempDir(), NoMDNS: true, ListenAddrs: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := n.library.Add(t.Context(), api.AddRequest{Source: tinymodel.Name}, nil); err != nil {
		t.Fatal(err)
	}
	return n
}

// A prompt that no tokens of the model can hold is refused though no tokens can be
// made at all; one that they may hold waits, and no longer than its client does.
func TestPromptTooLong(t *testing.T) {
	n := quiet(t)
	read := func(ctx context.Context, req *api.GenerateRequest) error {
		req.Model = tinymodel.Name
		g := &generation{n: n, req: req}
		return g.prepare(ctx)
	}
	if err := read(t.Context(), &api.GenerateRequest{Raw: true, Prompt: "short"}); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	leave() // so that it has no room to make tokens
	if err := read(ctx, &api.GenerateRequest{Raw: true, Prompt: "short"}); !errors.Is(err, context.Canceled) {
		t.Errorf("it left, and was told %v", err)
	}
	long := strings.Repeat("word ", 1<<20)
	for _, req := range []*api.GenerateRequest{{Raw: true, Prompt: long}, {Messages: []api.Message{{Role: "user", Content: long}}}} {
		if err := read(ctx, req); api.AsError(err).Kind != api.TooLong {
			t.Errorf("%v", err)
		}
	}
	// The bound holds for the densest text there is.
	m, err := n.store.Find(tinymodel.Name)
	if err != nil {
		t.Fatal(err)
	}
	tools, err := n.library.Tools(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	densest := ""
	for id := range tools.VocabSize() {
		if s := tools.Token(int32(id)); len(s) > len(densest) {
			densest = s
		}
	}
	ids, err := tools.Encode(t.Context(), strings.Repeat(densest, 100), text.EncodeOptions{ParseSpecial: true})
	if err != nil || len(ids)*tools.Longest() < 100*len(densest) {
		t.Errorf("%d tokens of at most %d bytes for %d, %v", len(ids), tools.Longest(), 100*len(densest), err)
	}
}

// A header that does not come keeps no other model's prompts waiting.
func TestToolsApart(t *testing.T) {
	raw := tinymodel.GGUF()
	raw = append(raw[:len(raw)-1:len(raw)-1], raw[len(raw)-1]^1)
	file := filepath.Join(t.TempDir(), "other.gguf")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	away := quiet(t)
	if _, err := away.library.Add(t.Context(), api.AddRequest{Source: file}, nil); err != nil {
		t.Fatal(err)
	}
	theirs, err := away.store.Find("other")
	if err != nil {
		t.Fatal(err)
	}
	manifest, id, err := theirs.Manifest().Encode()
	if err != nil {
		t.Fatal(err)
	}
	n := quiet(t)
	lacking, err := n.store.AddManifest(manifest, id, "other")
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	waits := make(chan error)
	go func() {
		_, err := n.library.Tools(ctx, lacking)
		waits <- err
	}()
	for len(n.library.Fetches()) == 0 {
		time.Sleep(time.Millisecond)
	}
	here, err := n.store.Find(tinymodel.Name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.library.Tools(t.Context(), here); err != nil {
		t.Error(err)
	}
	select {
	case err := <-waits:
		t.Errorf("nobody has the other, and it came: %v", err)
	default:
	}
	leave()
	if err := <-waits; !errors.Is(err, context.Canceled) {
		t.Errorf("who left was told %v", err)
	}
}
