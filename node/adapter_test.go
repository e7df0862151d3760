//go:build cgo

package node_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// adapter writes a random adapter for two matrices of each of the tiny model's blocks.
func adapter(t *testing.T, dir string) string {
	t.Helper()
	raw := tinymodel.GGUF()
	of, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	h := gguf.Header{Version: 3, KVs: []gguf.KV{
		{Key: "general.type", Value: "adapter"}, {Key: "general.architecture", Value: of.Architecture()},
		{Key: "adapter.type", Value: "lora"}, {Key: "adapter.lora.alpha", Value: float32(16)},
	}}
	rng := rand.New(rand.NewPCG(3, 3))
	var data []byte
	add := func(name string, in, out uint64) {
		h.Tensors = append(h.Tensors, gguf.Tensor{Name: name, Shape: []uint64{in, out}, Offset: uint64(len(data))})
		for range in * out {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(rng.NormFloat64()/math.Sqrt(float64(in)))))
		}
		data = append(data, make([]byte, (32-len(data)%32)%32)...)
	}
	for _, x := range of.Tensors {
		if strings.HasSuffix(x.Name, "attn_q.weight") || strings.HasSuffix(x.Name, "ffn_up.weight") {
			add(x.Name+".lora_a", x.Shape[0], 8)
			add(x.Name+".lora_b", 8, x.Shape[1])
		}
	}
	head, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	head = append(head, make([]byte, (32-len(head)%32)%32)...)
	path := filepath.Join(dir, "style.gguf")
	if err := os.WriteFile(path, append(head, data...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// said is what a node answers at temperature 0.
func said(t *testing.T, n *node.Node, model string) []int32 {
	t.Helper()
	g := request("Once upon a time", 0, 12)
	g.Model = model
	ids, _, _ := ask(t, n, g)
	return ids
}

// A model with an adapter is added, listed, fetched by span, served and asked for like
// any other, and says the same whole and in parts; beside it the model says what it did.
func TestAdapter(t *testing.T) {
	dir := os.Getenv("SHOAL_LIBLLAMA")
	if dir == "" {
		t.Skip("no library to test: SHOAL_LIBLLAMA is empty")
	}
	engines := serve.Engines{Library: func() (serve.Library, error) { return serve.Library{Dir: dir, ID: dir}, nil }}
	files := t.TempDir()
	tales := filepath.Join(files, "tales.gguf")
	if err := os.WriteFile(tales, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	style := adapter(t, files)
	a, addrs := start(t, node.Config{Engines: engines}, false)
	c := a.Client()
	if _, err := c.Add(t.Context(), api.AddRequest{Source: tales}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Add(t.Context(), api.AddRequest{Source: style}, nil); err == nil || !strings.Contains(err.Error(), "adapter") {
		t.Errorf("an adapter without its base: %v", err)
	}
	m, err := c.Add(t.Context(), api.AddRequest{Source: style, Base: "tales"}, nil)
	if err != nil || m.Name != "tales+style" {
		t.Fatalf("%v, %v", m, err)
	}
	list, err := c.Models(t.Context())
	if err != nil || !slices.ContainsFunc(list, func(m api.Model) bool { return m.Name == "tales+style" }) {
		t.Errorf("%v, %v", list, err)
	}
	if err := c.Remove(t.Context(), "tales"); err == nil {
		t.Error("what an adapter adds to was removed")
	}
	for _, name := range []string{"tales", "tales+style"} {
		if _, err := c.Serve(t.Context(), api.ServeRequest{Model: name, Span: "all"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	plain, want := said(t, a, "tales"), said(t, a, "tales+style")
	if slices.Equal(plain, want) {
		t.Error("the adapter changes nothing: the test shows nothing")
	}
	for _, name := range []string{"tales", "tales+style"} {
		if err := c.Stop(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}

	if _, err := c.Serve(t.Context(), api.ServeRequest{Model: "tales+style", Span: "0-5"}, nil); err != nil {
		t.Fatal(err)
	}
	b, _ := start(t, node.Config{Engines: engines, Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "tales+style", Span: "5-8"}}}, true)
	if got := said(t, b, "tales+style"); !slices.Equal(got, want) {
		t.Errorf("in two parts: %v, want %v", got, want)
	}
	theirs, err := b.Client().Models(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range theirs {
		if m.Complete && strings.HasPrefix(m.Name, "tales") {
			t.Errorf("%s was fetched whole", m.Name)
		}
	}

	alone, _ := start(t, node.Config{}, false) // with the built-in engine
	for _, req := range []api.AddRequest{{Source: tales}, {Source: style, Base: "tales"}} {
		if _, err := alone.Client().Add(t.Context(), req, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := alone.Client().Serve(t.Context(), api.ServeRequest{Model: "tales+style", Span: "all"}, nil); err == nil || !strings.Contains(err.Error(), "adapter") {
		t.Errorf("by the built-in engine: %v", err)
	}
}
