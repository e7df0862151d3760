package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/catalog"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

// Files of a node's home that names come from.
const (
	catalogDir = "catalog.d"
)

// names is what words stand for: the catalogue, and what its names turned out
// to mean here. A name keeps that meaning until the model is removed.
type names struct {
	*catalog.Catalog
	path string

	saving sync.Mutex // held while the file is written, which may take a while
	mu     sync.Mutex
	of     map[string]string // catalogue name -> CID
}

// LoadCatalog reads the built-in catalogue, then those in the home's
// catalog.d, by name of file, then files. keys are trusted besides the
// project's. Those that are named need no signature. The home remembers which
// editions of signed ones were taken, so that no older one is.
func LoadCatalog(dir string, files, keys []string) (*catalog.Catalog, error) {
	var sources []catalog.Source
	add := func(path string, own bool) error {
		f, err := os.Open(path)
		if err != nil {
			return badConfig("the catalogue: %w", err)
		}
		defer f.Close()
		raw, err := io.ReadAll(io.LimitReader(f, catalog.MaxFile+1))
		if err != nil {
			return badConfig("the catalogue: %w", err)
		}
		sources = append(sources, catalog.Source{Name: "the catalogue " + path, Raw: raw, Own: own})
		return nil
	}
	found, err := filepath.Glob(filepath.Join(dir, catalogDir, "*.toml")) // sorted
	if err != nil {
		return nil, err
	}
	for _, path := range found {
		if err := add(path, false); err != nil {
			return nil, err
		}
	}
	for _, path := range files {
		if err := add(path, true); err != nil {
			return nil, err
		}
	}
	taken, err := readEditions(dir)
	if err != nil {
		return nil, err
	}
	c, err := catalog.Load(keys, taken, sources...)
	if errors.Is(err, catalog.ErrOlder) {
		return nil, badConfig("%w; put the newer one there, or, to go back all the same, remove %s", err, home.Home(dir).Catalogs())
	}
	if err != nil {
		return nil, configError{err}
	}
	return c, saveEditions(dir, taken, c.Editions())
}

// readEditions gives those of signed catalogues that this home has taken.
func readEditions(dir string) (taken []catalog.Edition, err error) {
	path := home.Home(dir).Catalogs()
	raw, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &taken)
	}
	if err != nil {
		return nil, fmt.Errorf("%s, which remembers the newest catalogues, cannot be read (%w); remove it to forget them", path, err)
	}
	return taken, nil
}

func saveEditions(dir string, before, now []catalog.Edition) error {
	if slices.Equal(before, now) {
		return nil
	}
	raw, err := json.MarshalIndent(now, "", "  ")
	if err != nil {
		return err
	}
	return files.Replace(home.Home(dir).Catalogs(), append(raw, '\n'), 0o644)
}

func openNames(cfg *Config) (*names, error) {
	c, err := LoadCatalog(cfg.Home, cfg.Catalogs, cfg.CatalogKeys)
	if err != nil {
		return nil, err
	}
	s := &names{Catalog: c, path: cfg.home().Names()}
	s.of, err = readMeanings(s.path)
	return s, err
}

func readMeanings(path string) (map[string]string, error) {
	raw, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	var of map[string]string
	if json.Unmarshal(raw, &of) != nil || of == nil { // null is no map
		return nil, fmt.Errorf("%s, which remembers what names meant, is damaged; remove it to forget them", path)
	}
	return of, nil
}

// meaning is what an entry's name stands for, undefined if nobody knows yet.
// What it meant here before goes before what a newer catalogue says.
func (s *names) meaning(e *catalog.Entry) cid.Cid {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, err := cid.Decode(s.of[e.Name]); err == nil {
		return id
	}
	return e.ID()
}

func (s *names) remember(e *catalog.Entry, id cid.Cid) error {
	s.mu.Lock()
	known := s.of[e.Name] == id.String()
	s.of[e.Name] = id.String()
	s.mu.Unlock()
	if known {
		return nil
	}
	return s.save()
}

// forget takes the meanings away that stood for a model.
func (s *names) forget(id cid.Cid) {
	s.mu.Lock()
	before := len(s.of)
	maps.DeleteFunc(s.of, func(_, meant string) bool { return meant == id.String() })
	changed := len(s.of) != before
	s.mu.Unlock()
	if changed {
		_ = s.save() // at worst the name goes on meaning what it did
	}
}

// save writes the meanings.
func (s *names) save() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	raw, err := json.MarshalIndent(s.of, "", "  ")
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return files.Replace(s.path, append(raw, '\n'), 0o644)
}

// hint tells of names in the catalogue that someone may have meant.
func (s *names) hint(name string) string {
	near := s.Near(name)
	if len(near) == 0 {
		return "; `shoal model search` lists names that can be pulled"
	}
	return "; the catalogue has " + strings.Join(near[:min(8, len(near))], ", ")
}

// known finds a model of the catalogue here or among peers; nil: nowhere. The
// store's own names come first; one without a colon, such as smollm2, may also
// be short for what is here or served, as other names may. Peers' names are
// claims: one that offers a model under the name is believed if its manifest
// tells the catalogue's size and hashes; of several the likeliest, in words, but
// not by who pulls, for whom there is the origin. A manifest may lie about those, which only a CID in the catalogue, or the origin, can show;
// so what is learnt this way is not remembered as the name's meaning.
func (n *Node) known(ctx context.Context, e *catalog.Entry, name string, w wanted) (*store.Model, error) {
	if m := n.namedHere(e, name); m != nil {
		return m, nil
	}
	short := !strings.Contains(name, ":")
	if short {
		m, err := n.store.Find(name)
		if err == nil {
			return m, nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return nil, api.Errorf(api.BadInput, "%s", err)
		}
	}
	id := n.names.meaning(e)
	if id.Defined() {
		if m, err := n.store.Model(id); err == nil {
			return m, m.Note(e.Name, e.Own, e.Origins...)
		}
	}
	wait, cancel := context.WithTimeout(ctx, lookTime/5)
	defer cancel()
	if n.net.WaitPeers(wait) != nil {
		return nil, ctx.Err()
	}
	heard := n.survey.Claims(ctx, true)
	if short && !slices.ContainsFunc(heard, func(c *survey.Claim) bool { return c.ID.Equals(id) }) {
		m, err := n.lookUp(ctx, name, w)
		if err == nil || api.AsError(err).Kind != api.UnknownModel {
			return m, err
		}
	}
	if id.Defined() {
		m, err := n.learn(ctx, id, e.Name)
		var none *api.Error
		if errors.As(err, &none) && none.Kind == api.UnknownModel {
			return nil, ctx.Err()
		}
		if err == nil {
			err = errors.Join(m.Note("", e.Own, e.Origins...), n.names.remember(e, id))
		}
		return m, err
	}
	var called []*survey.Claim
	for _, c := range heard {
		if slices.ContainsFunc(c.Names, func(c string) bool { return strings.EqualFold(c, e.Name) || strings.EqualFold(c, name) }) {
			called = append(called, c)
		}
	}
	fits := n.real(ctx, called, func(man *protocol.Manifest) bool { return bears(e, man) })
	if len(fits) == 0 || ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if len(fits) > 1 && w.sure {
		return nil, nil // the origin knows
	}
	c, warning := survey.Likeliest(name, fits)
	if warning != "" {
		w.warn(warning)
	}
	m, err := n.learn(ctx, c.ID, e.Name)
	if err == nil {
		err = m.Note("", e.Own, e.Origins...)
	}
	return m, err
}

// namedHere is the store's model of exactly that name.
func (n *Node) namedHere(e *catalog.Entry, name string) *store.Model {
	for _, want := range []string{name, e.Name} {
		for _, m := range n.store.Models() {
			if slices.ContainsFunc(m.Names(), func(c string) bool { return strings.EqualFold(c, want) }) {
				return m
			}
		}
	}
	return nil
}

// bears says that a manifest can be of the files that the catalogue tells of.
func bears(e *catalog.Entry, man *protocol.Manifest) bool {
	sums := e.Sums()
	if e.Size > 0 && e.Size != man.Size() || len(sums) > 0 && len(sums) != len(man.Files) {
		return false
	}
	for i, sum := range sums {
		if !bytes.Equal(sum, man.Files[i].Sha256) {
			return false
		}
	}
	return e.Architecture == "" || e.Architecture == man.Architecture
}

// importListed imports a model of the catalogue from the first origin that
// gives what it should. name: "" for the catalogue's.
func (n *Node) importListed(ctx context.Context, e *catalog.Entry, name string, span *protocol.Span, progress func(done, total int64)) (*store.Model, error) {
	if len(e.Origins) == 0 {
		return nil, api.Errorf(api.UnknownModel, "the catalogue knows no origin of %s, and no peer that can be reached has it", e.Name)
	}
	if name == "" {
		name = e.Name
	}
	id := n.names.meaning(e)
	var errs []error
	for _, from := range e.Origins {
		m, err := n.addToStore(ctx, from, store.AddOptions{
			Name: name, Span: span, Progress: progress, Listed: !e.Own, Expect: store.Expect{ID: id, Size: e.Size, Sha256: e.Sums()},
		})
		if err == nil {
			return m, n.names.remember(e, m.ID())
		}
		if ctx.Err() != nil || !errors.Is(err, store.ErrSource) {
			return nil, err
		}
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	if id.Defined() && e.CID == "" {
		return nil, fmt.Errorf("%s, which meant model %s here: %w", e.Name, id, err)
	}
	return nil, fmt.Errorf("%s: %w", e.Name, err)
}

// fetchingEvents tells how far an import for a span to serve is.
func (n *Node) fetchingEvents(name string, span *protocol.Span) func(done, total int64) {
	var of protocol.Span
	if span != nil {
		of = *span
	}
	last := time.Now()
	return func(done, total int64) {
		if time.Since(last) > time.Second {
			last = time.Now()
			n.cfg.Events(Event{Event: "fetching", Name: name, From: of.From, To: of.To, Done: done, Total: total})
		}
	}
}

// Search lists the models of the catalogue that all words fit, and whether
// they are here or peers have them.
func (n *Node) Search(ctx context.Context, words []string) ([]api.Listed, error) {
	ask, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	offers := n.net.Offers(ask, cid.Undef, nil)
	out := []api.Listed{}
	for _, e := range n.names.Search(words...) {
		l := api.Listed{
			Name: e.Name, Also: e.Also, Title: e.Title, Architecture: e.Architecture, Parameters: e.Parameters, Quantization: e.Quantization,
			Licence: e.Licence, Size: e.Size, Sha256: e.Sha256, Origins: append([]string{}, e.Origins...),
		}
		id := n.names.meaning(e)
		m := n.namedHere(e, e.Name)
		if m == nil && id.Defined() {
			m, _ = n.store.Model(id)
		}
		if m != nil {
			id = m.ID()
			if d := describe(m); d.Complete {
				l.Here = "all"
			} else if len(d.Held) > 0 {
				l.Here = "part"
			}
		}
		if id.Defined() {
			l.ID = id.String()
		}
		for _, o := range offers {
			if o.From != n.net.Self() && has(o, id, e.Name) {
				l.Peers++
			}
		}
		out = append(out, l)
	}
	return out, nil
}

// has says that an offer is of a model: the one with the CID or, as long as
// nobody knows that, one of the name.
func has(o *protocol.Offer, id cid.Cid, name string) bool {
	is := func(raw []byte, called string) bool {
		if id.Defined() {
			return bytes.Equal(raw, id.Bytes())
		}
		return strings.EqualFold(called, name)
	}
	return slices.ContainsFunc(o.Spans, func(s *protocol.ServedSpan) bool { return is(s.Model, s.Name) }) ||
		slices.ContainsFunc(o.Shards, func(h *protocol.HeldShards) bool { return is(h.Model, h.Name) })
}
