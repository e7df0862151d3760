package node_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/lend"
)

// Engines that nobody uses are unloaded; the next prompt loads all of its route again, and
// its answer is the same.
func TestUnload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tales.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	const after = 500 * time.Millisecond
	a, addrs := start(t, node.Config{UnloadAfter: after, Serve: []node.ServeSpec{{Model: file, Span: "0-5"}}}, false)
	if _, err := a.Client().Add(t.Context(), api.AddRequest{Source: file}, nil); err != nil {
		t.Fatal(err)
	}
	b, _ := start(t, node.Config{UnloadAfter: after, Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "tales", Span: "5-8"}}}, true)
	until(t, "both are ready", func() bool { return serving(t, a).Ready && serving(t, b).Ready })
	answer := func() string {
		var text strings.Builder
		req := api.GenerateRequest{Model: "tales", Raw: true, Prompt: "Once upon a time", MaxTokens: 12, Sampling: api.Sampling{Temperature: new(float64)}}
		err := a.Generator().Generate(t.Context(), &req, func(e api.Event) error {
			if e.Token != nil {
				text.WriteString(e.Token.Text)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return text.String()
	}
	want := answer()
	for range 2 {
		for _, n := range []*node.Node{a, b} {
			until(t, "it is unloaded", func() bool { return strings.Contains(serving(t, n).State, "unloaded") })
			if s := serving(t, n); !s.Ready || s.Memory != 0 {
				t.Errorf("unloaded, it is %+v", s)
			}
		}
		if got := answer(); got != want {
			t.Errorf("%q, before it was unloaded: %q", got, want)
		}
	}
	// With the setting off it stays.
	for _, n := range []*node.Node{a, b} {
		if err := n.Adjust(node.Config{Lend: lend.Rules{OnBattery: true}}); err != nil {
			t.Fatal(err)
		}
	}
	answer()
	time.Sleep(3 * after)
	for _, n := range []*node.Node{a, b} {
		if s := serving(t, n); strings.Contains(s.State, "unloaded") {
			t.Errorf("with the setting off: %s", s.State)
		}
	}
}

// serving is the one span that a node serves.
func serving(t *testing.T, n *node.Node) api.Serving {
	t.Helper()
	st, err := n.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Serving) != 1 {
		t.Fatalf("it serves %+v", st.Serving)
	}
	return st.Serving[0]
}

// With less memory lent a span is loaded smaller, or says how much it needs, and served
// again when there is more.
func TestLessMemory(t *testing.T) {
	n, _ := start(t, node.Config{Memory: 1 << 30, Serve: []node.ServeSpec{{Model: "tinytales", Span: "all"}}}, true)
	before := serving(t, n).Memory
	lend := func(bytes int64) {
		if err := n.Adjust(node.Config{Memory: bytes, Lend: lend.Rules{OnBattery: true}}); err != nil {
			t.Fatal(err)
		}
	}
	less := before / 3
	lend(int64(less))
	until(t, "it is loaded smaller", func() bool { s := serving(t, n); return s.Ready && s.Memory <= less })
	lend(1 << 20)
	until(t, "it waits for memory", func() bool {
		s := serving(t, n)
		return !s.Ready && strings.Contains(s.State, "it needs") && strings.Contains(s.State, "1.0 MiB lent")
	})
	lend(1 << 30)
	until(t, "it is served again", func() bool { return serving(t, n).Ready })
}
