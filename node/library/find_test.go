package library

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
)

// libraryOf is a library in which p are the peers, of a catalogue with tales:9m (the
// first variant by its hash), fixed:1 (the second by its CID), and an origin of both
// that has the file of the first.
func libraryOf(t *testing.T, v *variants, p *crowd) *Library {
	t.Helper()
	origin := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(v.files[0]))))
	t.Cleanup(origin.Close)
	home, url := t.TempDir(), origin.URL+"/v.gguf"
	list := filepath.Join(home, "list.toml")
	text := fmt.Sprintf("own = true\n[[model]]\nname = \"tales:9m\"\nlicence = \"MIT\"\norigins = [%q]\nsha256 = [%q]\n[[model]]\nname = \"fixed:1\"\nlicence = \"MIT\"\norigins = [%q]\ncid = %q\n",
		url, v.sums[0], url, v.ids[1])
	if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadCatalog(home, []string{list}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(Config{
		Home: home, Store: openStore(t), Catalog: c, Network: p, Exchange: p, Survey: p, Log: slog.New(slog.DiscardHandler),
		Served: func(*store.Model) bool { return false }, Changed: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// A name's meaning is remembered if a CID or the origin proves it, and not if only a
// manifest's hashes do. Where a model can be had from, the catalogue says in each case.
func TestFindRemembers(t *testing.T) {
	v := newVariants(t, 2)
	everybody := func() *crowd {
		p := &crowd{manifests: map[string][]byte{}}
		for i, name := range []string{"tales:9m", "fixed:1"} {
			p.claims = append(p.claims, &survey.Claim{ID: v.ids[i], Names: []string{name}, Whole: true, Groups: 1})
			p.manifests[v.ids[i].KeyString()] = v.raw[i]
		}
		return p
	}
	for name, c := range map[string]struct {
		peers *crowd
		name  string
		want  map[string]string
	}{
		"by hashes at peers": {everybody(), "tales:9m", map[string]string{}},
		"by CID at peers":    {everybody(), "fixed:1", map[string]string{"fixed:1": v.ids[1].String()}},
		"from its origin":    {&crowd{}, "tales:9m", map[string]string{"tales:9m": v.ids[0].String()}},
	} {
		t.Run(name, func(t *testing.T) {
			l := libraryOf(t, v, c.peers)
			m, err := l.Find(t.Context(), c.name, Want{May: Pull})
			if err != nil {
				t.Fatal(err)
			}
			if m.Name() != c.name || len(m.Origins()) != 1 {
				t.Errorf("%s, of %v", m.Name(), m.Origins())
			}
			if got, err := readMemo[string](l.names.meant.path, "names"); err != nil || !maps.Equal(got, c.want) {
				t.Errorf("names mean %v, %v", got, err)
			}
			if err := l.Remove(t.Context(), c.name); err != nil {
				t.Fatal(err)
			}
			if got, err := readMemo[string](l.names.meant.path, "names"); err != nil || len(got) > 0 {
				t.Errorf("removed, they mean %v, %v", got, err)
			}
		})
	}
}

// Without a name the only model that is served is meant, or the one that leads, with a
// warning.
func TestPick(t *testing.T) {
	v := newVariants(t, 2)
	one := &survey.Claim{ID: v.ids[0], Names: []string{"a"}, Served: true, Whole: true, Groups: 2}
	leads := &survey.Claim{ID: v.ids[1], Names: []string{"b"}, Served: true, Whole: true, Groups: 1}
	same := &survey.Claim{ID: v.ids[1], Names: []string{"b"}, Served: true, Whole: true, Groups: 2}
	for name, c := range map[string]struct {
		claims []*survey.Claim
		id     cid.Cid
		warns  bool
		fails  api.Kind
	}{
		"none":     {nil, cid.Undef, false, api.NoRoute},
		"one":      {[]*survey.Claim{one}, v.ids[0], false, ""},
		"a leader": {[]*survey.Claim{one, leads}, v.ids[0], true, ""},
		"equals":   {[]*survey.Claim{one, same}, cid.Undef, false, api.BadInput},
	} {
		t.Run(name, func(t *testing.T) {
			l := libraryOf(t, v, &crowd{claims: c.claims, manifests: map[string][]byte{v.ids[0].KeyString(): v.raw[0]}})
			synctest.Test(t, func(t *testing.T) {
				m, warning, err := l.Pick(t.Context(), "")
				if c.fails != "" {
					if e := api.AsError(err); err == nil || e.Kind != c.fails {
						t.Fatalf("%v, want an error of kind %s", err, c.fails)
					}
					return
				}
				if err != nil || m.ID() != c.id || (warning != "") != c.warns {
					t.Errorf("%v, %q, %v", m, warning, err)
				}
			})
		})
	}
}
