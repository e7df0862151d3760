package node_test

import (
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/testnet/hostile"
)

// Somebody gives his model the name of one that two nodes serve, somebody else a
// model that nobody has, and hundreds of peers with thousands of models are made
// up: the name still means the one that most serve, in words; lists are of a size;
// only who pulls must say which.
func TestSquatter(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "fables.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	serve := []node.ServeSpec{{Model: file, Span: "all"}}
	changed := tinymodel.GGUF()
	changed = append(changed[:len(changed)-1:len(changed)-1], changed[len(changed)-1]^1)
	theirs := filepath.Join(t.TempDir(), "fables.gguf")
	if err := os.WriteFile(theirs, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	first, addrs := start(t, node.Config{Serve: serve}, true)
	second, more := start(t, node.Config{Serve: serve, Bootstrap: addrs}, true)
	rival, rivals := start(t, node.Config{Serve: []node.ServeSpec{{Model: theirs, Span: "all"}}, Bootstrap: addrs}, true)
	client, own := start(t, node.Config{Bootstrap: slices.Concat(addrs, more, rivals)}, false)
	want, err := first.Client().Show(t.Context(), "fables")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("another"))
	other, err := cid.V1Builder{Codec: cid.DagCBOR, MhType: 0x12}.Sum(sum[:])
	if err != nil {
		t.Fatal(err)
	}
	squatter := stranger(t, own)
	if err := squatter.Claim(hostile.Model{ID: other, Name: "fables", Blocks: want.Blocks, Width: want.Width}); err != nil {
		t.Fatal(err)
	}
	pushed := time.Now()
	if err := squatter.Names(400); err != nil {
		t.Fatal(err)
	}
	t.Logf("400 offers pushed after %s", time.Since(pushed))
	knows(t, client, squatter)
	until(t, "the three are there", func() bool {
		served := 0
		peers, err := client.Client().Peers(t.Context())
		for _, p := range peers {
			for _, n := range []*node.Node{first, second, rival} {
				if st, err := n.Client().Status(t.Context()); err == nil && st.Peer == p.Peer && len(p.Serves) > 0 {
					served++
				}
			}
		}
		return err == nil && served == 3
	})
	for _, path := range []string{"/v1/models", "/api/tags", "/shoal/v1/view"} {
		r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+path, nil)
		r.RemoteAddr = "127.0.0.1:1"
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		w, begin := httptest.NewRecorder(), time.Now()
		client.Handler().ServeHTTP(w, r)
		t.Logf("%s: %d bytes after %s", path, w.Body.Len(), time.Since(begin))
		if w.Code != http.StatusOK || w.Body.Len() > 1<<20 || !strings.Contains(w.Body.String(), want.ID) {
			t.Errorf("%s: %d, %d bytes", path, w.Code, w.Body.Len())
		}
	}
	if _, err := client.Client().Pull(t.Context(), api.PullRequest{Model: "fables"}, nil); api.AsError(err).Kind != api.BadInput || !strings.Contains(err.Error(), want.ID) || strings.Contains(err.Error(), other.String()) {
		t.Errorf("pulled by a name of two models: %v", err)
	}
	for _, name := range []string{"fables", ""} {
		at := time.Now()
		ids, begin, _ := ask(t, client, api.GenerateRequest{Model: name, Raw: true, Prompt: "Once upon a time", MaxTokens: 4})
		t.Logf("asked %q: %s", name, time.Since(at))
		if len(ids) == 0 || begin.Model != want.ID || begin.Warning == "" {
			t.Errorf("%q: %d tokens of %s, warned %q", name, len(ids), begin.Model, begin.Warning)
		}
	}
	if _, err := client.Client().Show(t.Context(), "nobody has this"); len(err.Error()) > 2000 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}
