package library

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/protocol"
)

// FuzzNames: whatever the home's files of names and catalogues hold, they are
// refused with a word that names the file, or a name can be given a meaning, keeps
// it when they are read again, and can lose it.
func FuzzNames(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "100x") // else a minute for each new input
	f.Add([]byte(`{"qwen3:8b":"bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"}`), []byte(`[{"key":"a","serial":3,"date":"2026-11-30"}]`))
	f.Add([]byte(`{"qwen3:8b":"x"}`), []byte(`[]`))
	f.Add([]byte(`null`), []byte(`null`))
	f.Add([]byte(`[`), []byte(`{}`))
	dir := home.Home(f.TempDir())
	meant := protocol.ModelKey(cid.Undef)
	f.Fuzz(func(t *testing.T, meanings, editions []byte) {
		for name, raw := range map[string][]byte{dir.Names(): meanings, dir.Editions(): editions} {
			if err := os.WriteFile(name, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := LoadCatalog(string(dir), nil, nil)
		var s *names
		if err == nil {
			s, err = openNames(string(dir), c)
		}
		if err != nil {
			if !strings.Contains(err.Error(), string(dir)) {
				t.Fatalf("it is not said which file: %v", err)
			}
			return
		}
		e := s.Find("qwen3:8b")
		s.meaning(e)
		if err := s.remember(e, meant); err != nil {
			t.Fatal(err)
		}
		again, err := readMemo[string](s.meant.path, "names")
		if err != nil || again[e.Name] != meant.String() || !s.meaning(e).Equals(meant) {
			t.Fatalf("it means %s when it is read again (%v)", again[e.Name], err)
		}
		s.forget(meant)
		if again, err = readMemo[string](s.meant.path, "names"); err != nil || again[e.Name] != "" || s.meaning(e).Defined() {
			t.Fatalf("it is not forgotten (%v)", err)
		}
	})
}
