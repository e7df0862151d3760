//go:build cgo

package node_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/llama/random"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// embedder writes a model of random weights that makes embeddings, and returns its file
// and nodes' engines for it.
func embedder(t *testing.T, name string, edits ...gguf.KV) (file string, engines serve.Engines) {
	t.Helper()
	dir := os.Getenv("SHOAL_LIBLLAMA")
	if dir == "" {
		t.Skip("no library to test: SHOAL_LIBLLAMA is empty")
	}
	for _, m := range random.Embedders() {
		if m.Name == name {
			file, err := m.Write(dir, t.TempDir(), edits...)
			if err != nil {
				t.Fatal(err)
			}
			return file, serve.Engines{Library: func() (serve.Library, error) { return serve.Library{Dir: dir, ID: dir}, nil }}
		}
	}
	t.Fatal("there is no model " + name)
	return "", serve.Engines{}
}

// serveVectors starts a node that serves blocks of a model in a file.
func serveVectors(t *testing.T, cfg node.Config, file, span string) (*node.Node, []string) {
	t.Helper()
	n, own := start(t, cfg, false)
	if _, err := n.Client().Add(t.Context(), api.AddRequest{Source: file, Name: "vectors"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Client().Serve(t.Context(), api.ServeRequest{Model: "vectors", Span: span}, nil); err != nil {
		t.Fatal(err)
	}
	return n, own
}

func manyTexts(n int) (texts []string) {
	for i := range n {
		texts = append(texts, fmt.Sprintf("text %d: %s", i, strings.Repeat("some words ", i%9)))
	}
	return texts
}

// embedded asks a node for embeddings until it has a route.
func embedded(t *testing.T, n *node.Node, texts []string) [][]float32 {
	t.Helper()
	var out *api.Embeddings
	until(t, "the texts have a route", func() (ok bool) {
		var err error
		out, err = n.Client().Embeddings(t.Context(), "vectors", texts, 0)
		var e *api.Error
		if err != nil && !(errors.As(err, &e) && (e.Kind == api.NoRoute || e.Kind == api.UnknownModel || e.Kind == api.Refused)) {
			t.Fatal(err)
		}
		return err == nil
	})
	if len(out.Embeddings) != len(texts) {
		t.Fatalf("%d embeddings of %d texts", len(out.Embeddings), len(texts))
	}
	return out.Embeddings
}

// alike holds two lists of embeddings against each other.
func alike(t *testing.T, what string, got, want [][]float32) {
	t.Helper()
	for i := range want {
		var cos float64
		for k := range want[i] {
			cos += float64(got[i][k]) * float64(want[i][k])
		}
		if math.Abs(cos-1) > 1e-4 {
			t.Errorf("%s: text %d has cosine %v", what, i, cos)
		}
	}
}

// A causal embedding model makes the same embeddings whole and over two nodes.
func TestEmbedSplit(t *testing.T) {
	file, engines := embedder(t, "qwen3 last")
	texts := manyTexts(40)
	whole, _ := serveVectors(t, node.Config{Engines: engines}, file, "all")
	want := embedded(t, whole, texts)
	first, addrs := serveVectors(t, node.Config{Engines: engines}, file, "0-1")
	serveVectors(t, node.Config{Engines: engines, Bootstrap: addrs}, file, "1-4")
	client, _ := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
	alike(t, "over two nodes", embedded(t, first, texts), want)
	alike(t, "from a client", embedded(t, client, texts), want)
}

// mortal is an engine that is lost at the pass that brings passes to 0.
type mortal struct {
	engine.Engine
	passes *atomic.Int32
}

func (e mortal) Run(ctx context.Context, b *engine.Batch) (*engine.Result, error) {
	if e.passes.Add(-1) == 0 {
		return nil, engine.ErrLost
	}
	return e.Engine.Run(ctx, b)
}

// When the engine that computes texts is lost, another node computes those that are
// missing, and the client notices nothing.
func TestEmbedEngineLost(t *testing.T) {
	file, engines := embedder(t, "bert mean")
	texts := manyTexts(200)
	var passes atomic.Int32
	cfg := node.Config{Engines: engines}
	load := engineFor(t, cfg)
	cfg.Engine = func(ctx context.Context, c engine.Config, log *slog.Logger) (engine.Engine, error) {
		e, err := load(ctx, c, log)
		if err != nil {
			return nil, err
		}
		return mortal{e, &passes}, nil
	}
	a, addrs := serveVectors(t, cfg, file, "all")
	cfg.Bootstrap = addrs
	serveVectors(t, cfg, file, "all")
	client, _ := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
	until(t, "the client sees both", func() bool {
		st, err := client.Client().Status(t.Context())
		return err == nil && st.Peers >= 2
	})
	want := embedded(t, client, texts)
	passes.Store(3)
	got, err := client.Client().Embeddings(t.Context(), "vectors", texts, 0)
	if err != nil {
		t.Fatal(err)
	}
	if passes.Load() > 0 {
		t.Error("no engine was lost: the test shows nothing")
	}
	alike(t, "with an engine lost", got.Embeddings, want)
	alike(t, "by one node", embedded(t, a, texts[:10]), want[:10])
}
