package library

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/catalog"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/home"
)

// names is the catalogue, and the CIDs that its names turned out to mean here. A name
// keeps that meaning until the model is removed. It is safe for concurrent use.
type names struct {
	*catalog.Catalog
	meant *memo[string]
}

// ErrCatalog is wrapped by LoadCatalog's errors that the operator can correct: a
// catalogue cannot be read, is refused, or is older than one that was taken.
var ErrCatalog = errors.New("catalogue")

// catalogError is an ErrCatalog that does not say so.
type catalogError struct{ error }

func (e catalogError) Unwrap() error        { return e.error }
func (e catalogError) Is(target error) bool { return target == ErrCatalog }

// LoadCatalog reads the built-in catalogue, then those in the home's catalog.d, by
// name of file, then files. keys are trusted besides the project's. files need no
// signature. The home remembers which editions of signed catalogues were taken, so
// that no older one is. Its errors wrap ErrCatalog, or are of the home's own files.
func LoadCatalog(dir string, files, keys []string) (*catalog.Catalog, error) {
	c, taken, err := readCatalog(dir, files, keys)
	if err != nil {
		return nil, err
	}
	return c, saveEditions(home.Home(dir).Editions(), taken, c.Editions())
}

// LookCatalog is LoadCatalog beside another process, perhaps: the home remembers nothing.
func LookCatalog(dir string, files, keys []string) (*catalog.Catalog, error) {
	c, _, err := readCatalog(dir, files, keys)
	return c, err
}

// readCatalog is LoadCatalog, and returns the editions that were taken before.
func readCatalog(dir string, files, keys []string) (c *catalog.Catalog, taken []catalog.Edition, err error) {
	in := home.Home(dir)
	var sources []catalog.Source
	add := func(path string, own bool) error {
		f, err := os.Open(path)
		if err != nil {
			return catalogError{fmt.Errorf("the catalogue: %w", err)}
		}
		defer f.Close()
		raw, err := io.ReadAll(io.LimitReader(f, catalog.MaxFile+1))
		if err != nil {
			return catalogError{fmt.Errorf("the catalogue: %w", err)}
		}
		sources = append(sources, catalog.Source{Name: "the catalogue " + path, Raw: raw, Own: own})
		return nil
	}
	found, err := filepath.Glob(filepath.Join(in.CatalogDir(), "*.toml")) // sorted
	if err != nil {
		return nil, nil, err
	}
	for _, path := range found {
		if err := add(path, false); err != nil {
			return nil, nil, err
		}
	}
	for _, path := range files {
		if err := add(path, true); err != nil {
			return nil, nil, err
		}
	}
	taken, err = readEditions(in.Editions())
	if err != nil {
		return nil, nil, err
	}
	c, err = catalog.Load(keys, taken, sources...)
	if errors.Is(err, catalog.ErrOlder) {
		return nil, nil, catalogError{fmt.Errorf("%w; put the newer one there, or, to go back all the same, remove %s", err, in.Editions())}
	}
	if err != nil {
		return nil, nil, catalogError{err}
	}
	return c, taken, nil
}

// readEditions returns those of signed catalogues that this home has taken.
func readEditions(path string) (taken []catalog.Edition, err error) {
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

func saveEditions(path string, before, now []catalog.Edition) error {
	if slices.Equal(before, now) {
		return nil
	}
	raw, err := json.MarshalIndent(now, "", "  ")
	if err != nil {
		return err
	}
	return files.Replace(path, append(raw, '\n'), 0o644)
}

// openNames returns the names of a catalogue with what they meant in a home.
func openNames(dir string, c *catalog.Catalog) (*names, error) {
	m, err := openMemo[string](home.Home(dir).Names(), 0o644, "what names meant")
	return &names{c, m}, err
}

// meaning is the model of an entry's name, undefined if nobody knows it yet. What
// the name meant here before comes before what a newer catalogue says.
func (s *names) meaning(e *catalog.Entry) cid.Cid {
	if text, ok := s.meant.get(e.Name); ok {
		if id, err := cid.Decode(text); err == nil {
			return id
		}
	}
	return e.ID()
}

func (s *names) remember(e *catalog.Entry, id cid.Cid) error { return s.meant.set(e.Name, id.String()) }

// forget removes the meanings that are a model.
func (s *names) forget(id cid.Cid) {
	s.meant.forget(func(meant string) bool { return meant == id.String() })
}

// Search lists the models of the catalogue that all words fit, and whether they are
// here or peers have them. It does not fail.
func (l *Library) Search(ctx context.Context, words []string) ([]api.Listed, error) {
	ask, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	peers := l.cfg.Survey.Index(ask)
	out := []api.Listed{}
	for _, e := range l.names.Search(words...) {
		found := api.Listed{
			Name: e.Name, Also: e.Also, Title: e.Title, Architecture: e.Architecture, Parameters: e.Parameters, Quantization: e.Quantization,
			Licence: e.Licence, Size: e.Size, Sha256: e.Sha256, Origins: append([]string{}, e.Origins...),
		}
		id := l.names.meaning(e)
		m := l.resolver.called(e.Name)
		if m == nil && id.Defined() {
			m, _ = l.store.Model(id)
		}
		if m != nil {
			id = m.ID()
			if d := Describe(m); d.Complete {
				found.Here = "all"
			} else if len(d.Held) > 0 {
				found.Here = "part"
			}
		}
		if id.Defined() {
			found.ID = id.String()
		}
		found.Peers = peers.Peers(id, e.Name)
		out = append(out, found)
	}
	return out, nil
}
