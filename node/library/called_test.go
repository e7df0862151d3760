package library

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/store"
)

// A home whose node does not run knows models by the names by which the running node does:
// those here by all of theirs, those of the catalogue by the name that they would get.
func TestCalledAtRest(t *testing.T) {
	dir := t.TempDir()
	st, err := store.Open(home.Home(dir).Store(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "v.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := st.Add(t.Context(), file, store.AddOptions{Name: "acme:2b"})
	if err != nil {
		t.Fatal(err)
	}
	id := m.ID().String()
	list := filepath.Join(t.TempDir(), "own.toml")
	if err := os.WriteFile(list, fmt.Appendf(nil, "own = true\n[[model]]\nname = \"listed:1b\"\nalso = [\"listed\"]\nlicence = \"MIT\"\ncid = %q\n[[model]]\nname = \"away:9b\"\nalso = [\"away\"]\nlicence = \"MIT\"\norigins = [\"hf:a/b/c.gguf\"]\n", id), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadCatalog(dir, []string{list}, nil)
	if err != nil {
		t.Fatal(err)
	}
	names, err := openNames(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	from, err := openSources(dir)
	if err != nil {
		t.Fatal(err)
	}
	running := (&resolver{store: st, names: names, sources: from}).meant
	looked, err := LookCatalog(dir, []string{list}, nil)
	if err != nil {
		t.Fatal(err)
	}
	atRest, err := LookCalled(dir, looked) // beside the node that has the store open
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"acme:2b": m.Called(), "ACME:2B": m.Called(), "ac": m.Called(), id: m.Called(), id[:12]: m.Called(), file: m.Called(), "listed": m.Called(), "listed:1b": m.Called(), "listed:latest": m.Called(),
		"away": {"away:9b"}, "away:9b": {"away:9b"}, "away:latest": {"away:9b"}, "nobody": nil, "./nowhere.gguf": nil,
	} {
		if a, b := running(name), atRest(name); !slices.Equal(a, want) || !slices.Equal(b, want) {
			t.Errorf("%s: running %q, at rest %q, want %q", name, a, b, want)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if none, err := LookCalled(t.TempDir(), looked); err != nil || none("acme:2b") != nil || !slices.Equal(none("away"), []string{"away:9b"}) {
		t.Errorf("an empty home: %v", err)
	}
}

// Looking at a home whose catalogue is signed leaves no trace there.
func TestLookRemembersNothing(t *testing.T) {
	dir := t.TempDir()
	if _, err := LookCatalog(dir, nil, nil); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		t.Errorf("it has %v, %v", list, err)
	}
}
