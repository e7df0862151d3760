package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/lend"
)

// never are hours that do not contain now, whenever that is.
func never(t *testing.T) lend.Rules {
	t.Helper()
	at := time.Now().Add(12 * time.Hour)
	h, err := lend.ParseHours(at.Format("15:04") + "-" + at.Add(time.Minute).Format("15:04"))
	if err != nil {
		t.Fatal(err)
	}
	return lend.Rules{Hours: h, OnBattery: true}
}

// An owner whose node lends nothing from its start on gets answers from it, and nobody
// else does.
func TestPausedOwner(t *testing.T) {
	t.Parallel()
	for _, span := range []string{"all", "auto"} {
		paused, addrs := startWith(t, node.Config{Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: span}}, Lend: never(t)}, true)
		one, _ := start(t, node.Config{Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}}}, true)
		want, _, _ := ask(t, one, request("Once upon a time", 0, 20))
		got, _, _ := ask(t, paused, request("Once upon a time", 0, 20))
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", span, got, want)
		}
		st, err := paused.Client().Status(t.Context())
		if err != nil || len(st.Serving) != 1 || !strings.HasPrefix(st.Serving[0].State, "paused: outside the hours lent") {
			t.Errorf("%s: %v, %+v", span, err, st)
		}
		if span != "all" {
			continue
		}
		stranger, _ := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
		req := request("Once upon a time", 0, 20)
		req.Model = st.Serving[0].Model
		err = stranger.Client().Generate(t.Context(), &req, func(api.Event) error { return nil })
		if !errors.Is(err, &api.Error{Kind: api.NoRoute}) {
			t.Errorf("a stranger: %v", err)
		}
		// Nor is it served who does not ask for offers.
		req.Route = []api.Hop{{Peer: st.Peer, From: 0, To: 8}}
		if err = stranger.Client().Generate(t.Context(), &req, func(api.Event) error { return nil }); err == nil {
			t.Error("a stranger was answered")
		}
	}
}

// A node that is told to serve what nobody has yet goes on, and serves it when a peer
// with which it is connected gets it.
func TestServesWhatComesLater(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tales.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	a, addrs := start(t, node.Config{Serve: []node.ServeSpec{{Model: file, Span: "0-3"}}}, false)
	b, _ := start(t, node.Config{Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "tales", Span: "3-8"}, {Model: "/no/such/file.gguf", Span: "all"}, {Model: "nobody-has-this", Span: "all"}}}, false)
	until(t, "the second fetches what nobody has", func() bool {
		st, err := b.Client().Status(t.Context())
		return err == nil && len(st.Serving) > 0 && st.Serving[0].State == "fetching shards"
	})
	until(t, "it says what it waits for", func() bool {
		st, err := b.Client().Status(t.Context())
		return err == nil && strings.Contains(st.Serving[1].State, "waiting: ") && strings.Contains(st.Serving[1].State, "no such file")
	})
	if _, err := a.Client().Add(t.Context(), api.AddRequest{Source: file}, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "it is served", func() bool {
		st, err := b.Client().Status(t.Context())
		return err == nil && len(st.Serving) > 0 && st.Serving[0].Ready
	})
}

// Several models are served, each as a whole while that fits, and never more memory is
// taken than is lent.
func TestSeveralModels(t *testing.T) {
	t.Parallel()
	other := filepath.Join(t.TempDir(), "other.gguf")
	if err := os.WriteFile(other, variant(t), 0o600); err != nil {
		t.Fatal(err)
	}
	specs := func(span string) []node.ServeSpec {
		return []node.ServeSpec{{Model: tinymodel.Name, Span: span}, {Model: other, Span: span}}
	}
	both, _ := start(t, node.Config{Serve: specs("auto"), Memory: 512 << 20}, true)
	st, err := both.Client().Status(t.Context())
	if err != nil || len(st.Serving) != 2 || !st.Serving[0].Ready || !st.Serving[1].Ready || st.Serving[0].Model == st.Serving[1].Model {
		t.Fatalf("%+v, %v", st, err)
	}
	for _, v := range st.Serving {
		req := request("Once upon a time", 0, 5)
		req.Model = v.Name
		if ids, _, _ := ask(t, both, req); len(ids) != 5 {
			t.Error("no answer of ", v.Name)
		}
	}
	one, _ := start(t, node.Config{Serve: specs("all"), Memory: 12 << 20, KVTokens: 512}, false)
	until(t, "one is served, and the other says why not", func() bool {
		st, err := one.Client().Status(t.Context())
		if err != nil || len(st.Serving) != 2 {
			return false
		}
		x, y := st.Serving[0], st.Serving[1]
		if y.Ready {
			x, y = y, x
		}
		if x.Memory+y.Memory > uint64(st.Memory) {
			t.Fatalf("%d and %d of %d bytes lent", x.Memory, y.Memory, st.Memory)
		}
		return x.Ready && strings.Contains(y.State, "waiting: it needs ") && strings.Contains(y.State, "of 12.0 MiB lent; raise the memory")
	})
}

// variant is the program's own model with another last byte.
func variant(t *testing.T) []byte {
	t.Helper()
	raw := slices.Clone(tinymodel.GGUF())
	raw[len(raw)-1] ^= 1
	return raw
}
