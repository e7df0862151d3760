package node_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
)

// hub answers as Hugging Face does: it tells a file's size and hash, and sends
// on to its storage.
type hub struct {
	*httptest.Server
	files map[string][]byte // by owner/repo/file
	gave  atomic.Int64      // whole files
}

func newHub(t *testing.T, files map[string][]byte) *hub {
	h := &hub{files: files}
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.gave.Add(1)
		http.ServeContent(w, r, "", time.Unix(1, 0), strings.NewReader(string(h.files[r.URL.Path[1:]])))
	}))
	t.Cleanup(storage.Close)
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.Replace(r.URL.Path[1:], "/resolve/main/", "/", 1)
		raw, ok := h.files[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("X-Linked-Size", fmt.Sprint(len(raw)))
		w.Header().Set("X-Linked-ETag", fmt.Sprintf("%q", fmt.Sprintf("%x", sha256.Sum256(raw))))
		http.Redirect(w, r, storage.URL+"/"+name, http.StatusFound)
	}))
	t.Cleanup(h.Close)
	t.Setenv("HF_ENDPOINT", h.URL)
	return h
}

func listing(t *testing.T, entries ...string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mine.toml")
	var text string
	for _, e := range entries {
		text += "[[model]]\nlicence = \"Apache-2.0\"\n" + e + "\n"
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{path}
}

// A name of the catalogue is enough to serve: of the first node from the
// origin, of all others from peers.
func TestNames(t *testing.T) {
	raw := tinymodel.GGUF()
	h := newHub(t, map[string][]byte{"o/tales/t.gguf": raw})
	list := listing(t, fmt.Sprintf("name = \"tales:9m\"\nalso = [\"tales\"]\norigins = [\"hf:o/gone/t.gguf\", \"hf:o/tales/t.gguf\"]\nsize = %d\nsha256 = [\"%x\"]", len(raw), sha256.Sum256(raw)))
	first, addrs := start(t, node.Config{Catalogs: list, Serve: []node.ServeSpec{{Model: "tales:9m", Span: "0-5"}}}, false)
	until(t, "the span is here, and no more", func() bool {
		m, err := first.Client().Show(t.Context(), "tales:9m")
		return err == nil && slices.Equal(m.Held, []string{"header", "embedding", "0-5"})
	})
	if _, err := first.Client().Add(t.Context(), api.AddRequest{Source: "tales:9m"}, nil); err != nil { // the rest
		t.Fatal(err)
	}
	gave := h.gave.Load()
	second, _ := start(t, node.Config{Catalogs: list, Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "TALES:9m", Span: "5-8"}}}, true)
	for _, n := range []*node.Node{first, second} {
		if ids, begin, _ := ask(t, n, api.GenerateRequest{Model: "tales", Raw: true, Prompt: "Once upon a time", MaxTokens: 8}); len(ids) == 0 || begin.Name != "tales:9m" {
			t.Errorf("answered %v by %q", ids, begin.Name)
		}
	}
	if h.gave.Load() != gave {
		t.Error("the second node went to the origin, where a peer had it")
	}
	found, err := second.Client().Search(t.Context(), []string{"tales:9m"})
	if err != nil || len(found) != 1 || found[0].Here != "part" || found[0].Peers != 1 || found[0].ID == "" {
		t.Errorf("search says %+v, %v", found, err)
	}
	// Who only asks fetches no model that nobody serves.
	if err := second.Client().Generate(t.Context(), &api.GenerateRequest{Model: "smollm2:135m", Raw: true, Prompt: "x"}, nil); api.AsError(err).Kind != api.UnknownModel || !strings.Contains(err.Error(), "smollm2:135m is in the catalogue, and neither here nor served") {
		t.Errorf("asked for what is only listed: %v", err)
	}
	if err := second.Client().Generate(t.Context(), &api.GenerateRequest{Model: "smollm9", Raw: true, Prompt: "x"}, nil); api.AsError(err).Kind != api.UnknownModel {
		t.Errorf("asked for what is nowhere: %v", err)
	}
}

// Peers' names are claims, which the catalogue's hash refutes.
func TestNamesClaimed(t *testing.T) {
	raw := tinymodel.GGUF()
	newHub(t, map[string][]byte{"o/tales/t.gguf": raw})
	other := slices.Clone(raw)
	other[len(other)-1] ^= 1
	file := filepath.Join(t.TempDir(), "other.gguf")
	if err := os.WriteFile(file, other, 0o600); err != nil {
		t.Fatal(err)
	}
	liar, addrs := start(t, node.Config{}, false)
	lie, err := liar.Client().Add(t.Context(), api.AddRequest{Source: file, Name: "tales:9m"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	list := listing(t, fmt.Sprintf("name = \"tales:9m\"\norigins = [\"hf:o/tales/t.gguf\"]\nsha256 = [\"%x\"]", sha256.Sum256(raw)))
	n, _ := start(t, node.Config{Catalogs: list, Bootstrap: addrs}, false)
	m, err := n.Client().Pull(t.Context(), api.PullRequest{Model: "tales:9m"}, nil)
	if err != nil || m.ID == lie.ID || !m.Complete {
		t.Errorf("pulled %+v, %v", m, err)
	}
}

// What a name meant is remembered, until the model is removed.
func TestNamesKeepTheirMeaning(t *testing.T) {
	raw := tinymodel.GGUF()
	h := newHub(t, map[string][]byte{"o/tales/t.gguf": raw})
	n, _ := start(t, node.Config{Catalogs: listing(t, `name = "tales:9m"`+"\n"+`origins = ["hf:o/tales/t.gguf"]`)}, false)
	cl := n.Client()
	pull := func() (*api.Model, error) {
		return cl.Pull(t.Context(), api.PullRequest{Model: "tales:9m"}, nil)
	}
	first, err := pull()
	if err != nil || !first.Complete {
		t.Fatal(first, err)
	}
	changed := slices.Clone(raw)
	changed[len(changed)-1] ^= 1
	h.files["o/tales/t.gguf"] = changed
	gave := h.gave.Load()
	if again, err := pull(); err != nil || again.ID != first.ID || h.gave.Load() != gave {
		t.Errorf("pulled again: %+v, %v", again, err)
	}
	if _, err := cl.Add(t.Context(), api.AddRequest{Source: "tales:9m"}, nil); api.AsError(err).Kind != api.BadInput || !strings.Contains(err.Error(), first.ID) {
		t.Errorf("the name took another meaning: %v", err)
	}
	if err := cl.Remove(t.Context(), "tales:9m"); err != nil {
		t.Fatal(err)
	}
	if m, err := pull(); err != nil || m.ID == first.ID {
		t.Errorf("removed, it still means the same: %v", err)
	}
}

// What the origin gives must be what the catalogue says, and nothing of it is
// left if it is not.
func TestNamesRefuse(t *testing.T) {
	raw := tinymodel.GGUF()
	h := newHub(t, map[string][]byte{"o/tales/t.gguf": raw})
	list := listing(t,
		"name = \"size:1\"\norigins = [\"hf:o/tales/t.gguf\"]\nsize = 1000",
		fmt.Sprintf("name = \"sum:1\"\norigins = [\"hf:o/tales/t.gguf\"]\nsha256 = [\"%064x\"]", 1),
		"name = \"cid:1\"\norigins = [\"hf:o/tales/t.gguf\"]\ncid = \"bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy\"",
		"name = \"parts:1\"\norigins = [\"hf:o/tales/t.gguf\"]\nsha256 = [\""+strings.Repeat("0a", 32)+"\", \""+strings.Repeat("0b", 32)+"\"]",
		"name = \"gone:1\"\norigins = [\"hf:o/tales/none.gguf\"]",
		"name = \"nowhere:1\"\ncid = \"bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy\"",
	)
	n, _ := start(t, node.Config{Catalogs: list}, false)
	for name, want := range map[string]string{
		"size:1": "1000 were expected", "sum:1": "was expected: it is another file", "cid:1": "is model bafy",
		"parts:1": "2 were expected", "gone:1": "404", "nowhere:1": "no origin",
	} {
		_, err := n.Client().Pull(t.Context(), api.PullRequest{Model: name}, nil)
		if e := api.AsError(err); err == nil || e.Kind != api.BadInput && e.Kind != api.UnknownModel || !strings.Contains(e.Message, want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if list, err := n.Client().Models(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("left behind: %+v, %v", list, err)
	}
	if h.gave.Load() > 5 { // a file's header each, and one whole file
		t.Errorf("the storage was asked %d times", h.gave.Load())
	}
}

// A node that has no room for all of a model serves a span of its choice, and
// fetches that alone from the origin.
func TestNamesTooBig(t *testing.T) {
	raw := tinymodel.GGUF()
	newHub(t, map[string][]byte{"o/tales/t.gguf": raw})
	n, _ := start(t, node.Config{
		Catalogs: listing(t, "name = \"tales:1\"\norigins = [\"hf:o/tales/t.gguf\"]"),
		Quota:    2 << 20, Memory: 7 << 20, KVTokens: 512, Serve: []node.ServeSpec{{Model: "tales:1", Span: "auto"}},
	}, false)
	until(t, "a span is loaded", func() bool {
		st, err := n.Client().Status(t.Context())
		return err == nil && len(st.Serving) > 0 && st.Serving[0].Memory > 0
	})
	if got := scrape(t, n); !has(got, `shoal_fetched_bytes_total{source="origins"}`) {
		t.Error("the metrics know of no origin")
	}
	if m, err := n.Client().Show(t.Context(), "tales:1"); err != nil || m.Complete || m.Allocated > 2<<20 || len(m.Held) < 2 {
		t.Errorf("%+v, %v", m, err)
	}
}

// A manifest is made of the model's bytes alone: whoever imports them, from
// wherever and whenever, gets the same CID.
func TestSameFileSameCID(t *testing.T) {
	raw := tinymodel.GGUF()
	h := newHub(t, map[string][]byte{"o/tales/t.gguf": raw})
	file := filepath.Join(t.TempDir(), "quite-another-name.gguf")
	if err := errors.Join(os.WriteFile(file, raw, 0o600), os.Chtimes(file, time.Unix(9, 0), time.Unix(9, 0))); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, req := range []api.AddRequest{
		{Source: file}, {Source: file, Name: "a name", Span: "2-4"}, {Source: "hf:o/tales/t.gguf"}, {Source: h.URL + "/o/tales/t.gguf"}, {Source: tinymodel.Name},
	} {
		n, _ := start(t, node.Config{}, false)
		m, err := n.Client().Add(t.Context(), req, nil)
		if err != nil {
			t.Fatal(err)
		}
		ids[m.ID] = true
	}
	if len(ids) != 1 {
		t.Errorf("%d manifests of one file: %v", len(ids), ids)
	}
}
