package library

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
)

// crowd is the peers of a test: what they claim, and the manifests that they have.
type crowd struct {
	claims    []*survey.Claim
	manifests map[string][]byte
}

func (c *crowd) WaitPeers(context.Context) error {
	if len(c.claims) == 0 {
		return errors.New("no peer was found")
	}
	return nil
}
func (c *crowd) Claims(context.Context, bool) []*survey.Claim { return slices.Clone(c.claims) }
func (c *crowd) Renew(context.Context)                        {}
func (c *crowd) Index(context.Context) *survey.Index          { return &survey.Index{} }
func (c *crowd) NameOf(cid.Cid) string                        { return "as peers say" }

func (c *crowd) Fetch(context.Context, cid.Cid, exchange.Want, func(exchange.Progress), ...exchange.Origin) error {
	return exchange.ErrNotFound
}

func (c *crowd) Gained(cid.Cid) {}

func (c *crowd) Manifest(_ context.Context, id cid.Cid) ([]byte, error) {
	if raw := c.manifests[id.KeyString()]; raw != nil {
		return raw, nil
	}
	return nil, exchange.ErrNotFound
}

// variants are models that differ in their last byte, all in one store.
type variants struct {
	store *store.Store
	files []string
	ids   []cid.Cid
	raw   [][]byte // manifests
	sums  []string
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newVariants(t *testing.T, n int) *variants {
	t.Helper()
	v := &variants{store: openStore(t)}
	for i := range n {
		raw := bytes.Clone(tinymodel.GGUF())
		raw[len(raw)-1] ^= byte(i)
		path := filepath.Join(t.TempDir(), "v.gguf")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := v.store.Add(t.Context(), path, store.AddOptions{Name: fmt.Sprint("v", i)})
		if err != nil {
			t.Fatal(err)
		}
		manifest, id, err := m.Manifest().Encode()
		if err != nil {
			t.Fatal(err)
		}
		v.files, v.ids, v.raw, v.sums = append(v.files, path), append(v.ids, id), append(v.raw, manifest), append(v.sums, fmt.Sprintf("%x", sha256.Sum256(raw)))
	}
	return v
}

// TestPrecedence is the table of doc.go: whose word decides what a name means.
func TestPrecedence(t *testing.T) {
	const a, b, c = 0, 1, 2 // variants
	v := newVariants(t, 3)
	home := t.TempDir()
	list := filepath.Join(home, "list.toml")
	text := fmt.Sprintf(`[[model]]
name = "tales:9m"
also = ["tales"]
licence = "MIT"
origins = ["hf:o/r/t.gguf"]
sha256 = ["%s"]
[[model]]
name = "fixed:1"
licence = "MIT"
origins = ["hf:o/r/f.gguf"]
cid = "%s"
`, v.sums[a], v.ids[b])
	if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	catalog, err := LoadCatalog(home, []string{list}, nil)
	if err != nil {
		t.Fatal(err)
	}
	type models map[string]int // variants by name
	cases := []struct {
		rule    string
		name    string
		want    Want
		here    models
		peers   models // each a claim of one network
		missing bool   // peers' manifests cannot be fetched
		meant   int    // what tales:9m meant here before, plus one

		place   place
		variant int
		entry   bool
		called  string // at peers
		warns   bool
		fails   api.Kind
		remedy  remedy.Kind
	}{
		{rule: "1", name: "TALES:9m", here: models{"tales:9m": c}, peers: models{"tales:9m": a}, place: here, variant: c},
		{rule: "1, by the entry's name", name: "tales", here: models{"tales:9m": c, "tales-other": b}, place: here, variant: c},
		{rule: "1 before 3", name: "tales:9m", here: models{"tales:9m": c, "x": b}, meant: b + 1, place: here, variant: c},
		{rule: "2", name: "mine", here: models{"mine": c}, peers: models{"mine": a}, place: here, variant: c},
		{rule: "2, by the beginning", name: "mi", here: models{"mine": c}, place: here, variant: c},
		{rule: "2, a CID", name: v.ids[c].String(), here: models{"mine": c}, place: here, variant: c},
		{rule: "2, several", name: "mi", here: models{"mine": c, "mice": b}, fails: api.BadInput},
		{rule: "2, short", name: "tales", here: models{"tales-other": b}, peers: models{"tales:9m": a}, place: here, variant: b},
		{rule: "2 is not for whole names of the catalogue", name: "tales:9m", here: models{"tales:9m-other": b}, place: unknown, fails: api.UnknownModel, remedy: remedy.ServeModel},
		{rule: "2 before 4", name: v.files[a], want: Want{May: Import}, here: models{v.files[a]: b}, place: here, variant: b},
		{rule: "3, by its CID", name: "fixed:1", here: models{"x": b}, peers: models{"fixed:1": a}, place: here, variant: b, entry: true},
		{rule: "3, as it meant before", name: "tales:9m", here: models{"x": c}, meant: c + 1, place: here, variant: c, entry: true},
		{rule: "4, own", name: tinymodel.Name, place: atOrigin},
		{rule: "4, a file", name: v.files[a], want: Want{May: Import}, place: atOrigin},
		{rule: "4 is not for a pull", name: v.files[a], want: Want{May: Pull}, peers: models{"x": a}, fails: api.UnknownModel, remedy: remedy.AddModel},
		{rule: "4 is not for a prompt", name: "hf:o/r/t.gguf", peers: models{"x": a}, fails: api.UnknownModel, remedy: remedy.AddModel},
		{rule: "5", name: "theirs", peers: models{"Theirs": c}, place: atPeers, variant: c, called: "theirs"},
		{rule: "5, by the beginning", name: "the", peers: models{"theirs": c}, place: atPeers, variant: c, called: "theirs"},
		{rule: "5, here by another name", name: "theirs", here: models{"mine": c}, peers: models{"theirs": c}, place: here, variant: c},
		{rule: "5, several", name: "theirs", peers: models{"theirs": c, "THEIRS": b}, place: atPeers, variant: b, called: "theirs", warns: true},
		{rule: "5, several, and sure", name: "theirs", want: Want{Sure: true}, peers: models{"theirs": c, "THEIRS": b}, fails: api.BadInput},
		{rule: "5, several, and no manifest", name: "theirs", peers: models{"theirs": c, "THEIRS": b}, missing: true, fails: api.UnknownModel, remedy: remedy.SearchModels},
		{rule: "5, and no manifest", name: "theirs", peers: models{"theirs": c}, missing: true, fails: api.UnknownModel},
		{rule: "5, short", name: "fixed", peers: models{"fixed": c}, place: atPeers, variant: c, called: "fixed"},
		{rule: "5, nobody is there", name: "theirs", fails: api.UnknownModel, remedy: remedy.SearchModels},
		{rule: "5, others", name: "mine", peers: models{"theirs": c}, fails: api.UnknownModel, remedy: remedy.SearchModels},
		{rule: "6", name: v.ids[c].String(), peers: models{"theirs": c}, place: atPeers, variant: c, called: "as peers say"},
		{rule: "6, of the catalogue", name: "fixed:1", want: Want{May: Pull}, peers: models{"fixed:1": a, "x": b}, place: atPeers, variant: b, entry: true, called: "fixed:1"},
		{rule: "6, as it meant before", name: "tales:9m", peers: models{"tales:9m": a, "x": c}, meant: c + 1, place: atPeers, variant: c, entry: true, called: "tales:9m"},
		{rule: "6, and no manifest", name: "fixed:1", want: Want{May: Pull}, peers: models{"fixed:1": b}, missing: true, place: atOrigin, entry: true},
		{rule: "6, no model's CID", name: "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPBDG", peers: models{"x": a}, fails: api.UnknownModel},
		{rule: "7", name: "tales:9m", want: Want{May: Pull}, peers: models{"tales:9m": a}, place: atPeers, variant: a, entry: true, called: "tales:9m"},
		{rule: "7, refuted", name: "tales:9m", want: Want{May: Pull}, peers: models{"tales:9m": c}, place: atOrigin, entry: true},
		{rule: "7 past what is refuted", name: "tales:9m", peers: models{"tales:9m": a, "TALES:9M": c}, place: atPeers, variant: a, entry: true, called: "tales:9m"},
		{rule: "8", name: "tales:9m", want: Want{May: Pull}, place: atOrigin, entry: true},
		{rule: "8, short", name: "tales", want: Want{May: Import}, place: atOrigin, entry: true},
		{rule: "8 is not for a prompt", name: "tales:9m", fails: api.UnknownModel, remedy: remedy.ServeModel},
		{rule: "8 is not for a prompt, though a liar is there", name: "tales:9m", peers: models{"tales:9m": c}, fails: api.UnknownModel, remedy: remedy.ServeModel},
	}
	for _, test := range cases {
		t.Run(test.rule, func(t *testing.T) {
			s := openStore(t)
			for name, i := range test.here {
				if _, err := s.AddManifest(v.raw[i], v.ids[i], name); err != nil {
					t.Fatal(err)
				}
			}
			n, err := openNames(t.TempDir(), catalog)
			if err != nil {
				t.Fatal(err)
			}
			if test.meant > 0 {
				n.meant.of["tales:9m"] = v.ids[test.meant-1].String()
			}
			p := &crowd{manifests: map[string][]byte{}}
			for name, i := range test.peers {
				p.claims = append(p.claims, &survey.Claim{ID: v.ids[i], Names: []string{name}, Served: true, Held: true, Whole: true, Groups: 1})
				if !test.missing {
					p.manifests[v.ids[i].KeyString()] = v.raw[i]
				}
			}
			slices.SortFunc(p.claims, func(a, b *survey.Claim) int { return strings.Compare(a.Names[0], b.Names[0]) })
			var r *resolution
			synctest.Test(t, func(t *testing.T) {
				v := &resolver{sources: &sources{&memo[sourced]{of: map[string]sourced{}}}, store: s, names: n, net: p, survey: p, manifest: p.Manifest}
				r, err = v.resolve(t.Context(), test.name, test.want)
			})
			if err == nil {
				err = r.why
			}
			if test.fails != "" {
				if e := api.AsError(err); err == nil || e.Kind != test.fails {
					t.Fatalf("%+v, %v; want an error of kind %s", r, err, test.fails)
				}
				if got := remedy.Of(api.AsError(err)); (got != nil) != (test.remedy != "") || got != nil && got.Kind != test.remedy {
					t.Errorf("%v: the remedy is %+v, want %q", err, got, test.remedy)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.place != test.place || (r.entry != nil) != test.entry || r.name != test.called || (r.warning != "") != test.warns {
				t.Errorf("%+v", r)
			}
			switch r.place {
			case here:
				if r.model.ID() != v.ids[test.variant] {
					t.Errorf("it is %s", r.model.Name())
				}
			case atPeers:
				if r.id != v.ids[test.variant] || !bytes.Equal(r.manifest, v.raw[test.variant]) {
					t.Errorf("it is %s", r.id)
				}
			}
			if len(s.Models()) != len(test.here) {
				t.Error("resolving a name changed the store")
			}
		})
	}
}
