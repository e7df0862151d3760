package catalog

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/ipfs/go-cid"
)

// Limits that no honest catalogue reaches.
const (
	MaxFile    = 4 << 20 // bytes
	maxEntries = 10_000
	maxText    = 512
	maxOrigins = 16
)

// ErrCatalog is wrapped by every error about a catalogue's text.
var ErrCatalog = errors.New("not a usable catalogue")

func errf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCatalog, fmt.Sprintf(format, args...))
}

// Entry is one model. See the package's documentation.
type Entry struct {
	Name         string   `toml:"name"`
	Also         []string `toml:"also"`
	Title        string   `toml:"title"`
	Architecture string   `toml:"architecture"`
	Parameters   string   `toml:"parameters"`
	Quantization string   `toml:"quantization"`
	Licence      string   `toml:"licence"`
	Origins      []string `toml:"origins"`
	Size         int64    `toml:"size"`
	Sha256       []string `toml:"sha256"`
	CID          string   `toml:"cid"`
	Checked      string   `toml:"checked"`

	Own bool `toml:"-"` // of a catalogue that nobody signed: the operator's
}

// ID is the manifest's CID, cid.Undef if the catalogue gives none.
func (e *Entry) ID() cid.Cid {
	id, err := cid.Decode(e.CID)
	if err != nil {
		return cid.Undef
	}
	return id
}

// Sums are the files' hashes, none if the catalogue gives none.
func (e *Entry) Sums() [][]byte {
	var out [][]byte
	for _, s := range e.Sha256 {
		b, _ := hex.DecodeString(s) // Parse has looked at it
		out = append(out, b)
	}
	return out
}

// names are all of an entry's.
func (e *Entry) names() []string { return append([]string{e.Name}, e.Also...) }

// Catalog is what one or several files list. It is safe for concurrent use, as
// nothing changes it.
type Catalog struct {
	entries  []*Entry
	byName   map[string]*Entry
	editions []Edition
}

// file is a catalogue as it is written.
type file struct {
	Replace bool     `toml:"replace"`
	Own     bool     `toml:"own"`
	Series  string   `toml:"series"`
	Serial  int64    `toml:"serial"`
	Date    string   `toml:"date"`
	Models  []*Entry `toml:"model"`
}

// parse reads one catalogue, whose signature open looks at. Errors wrap
// ErrCatalog and name the entry.
func parse(raw []byte) (*file, error) {
	if len(raw) > MaxFile {
		return nil, errf("%d MiB; %d are possible", len(raw)>>20, MaxFile>>20)
	}
	var f file
	md, err := toml.Decode(string(raw), &f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCatalog, err)
	}
	if more := md.Undecoded(); len(more) > 0 {
		return nil, errf("there is no setting %q", more[0])
	}
	if len(f.Models) > maxEntries {
		return nil, errf("%d models; %d are possible", len(f.Models), maxEntries)
	}
	if err := f.checkEdition(); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for i, e := range f.Models {
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("model %d, %.80q: %w", i+1, e.Name, err)
		}
		for _, n := range e.names() {
			if seen[n] {
				return nil, errf("the name %q stands for two models", n)
			}
			seen[n] = true
		}
	}
	return &f, nil
}

var (
	nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}(:[a-z0-9][a-z0-9._-]{0,63})?$`)
	hfForm   = regexp.MustCompile(`^hf:[A-Za-z0-9._-]+/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)+$`)
	httpForm = regexp.MustCompile(`^https?://[A-Za-z0-9._:-]+(/[!-~]*)?$`)
)

func (e *Entry) check() error {
	for _, n := range e.names() {
		if !nameForm.MatchString(n) || strings.HasSuffix(n, ".gguf") {
			return errf("the name %.80q: write it in lower case, as in qwen3:8b", n)
		}
		if _, err := cid.Decode(n); err == nil {
			return errf("the name %q is a CID", n)
		}
	}
	for _, s := range []string{e.Title, e.Architecture, e.Parameters, e.Quantization, e.Licence, e.Checked} {
		if len(s) > maxText || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return errf("a text with control characters, or longer than %d bytes", maxText)
		}
	}
	if e.Licence == "" {
		return errf("no licence")
	}
	if len(e.Origins) > maxOrigins {
		return errf("%d origins; %d are possible", len(e.Origins), maxOrigins)
	}
	for _, o := range e.Origins {
		if len(o) > 4*maxText || !hfForm.MatchString(o) && !httpForm.MatchString(o) || strings.Contains(o, "/../") {
			return errf("the origin %.200q: write it as hf:owner/repo/file.gguf or a URL", o)
		}
	}
	if e.CID != "" {
		if id, err := cid.Decode(e.CID); err != nil || id.Version() != 1 || id.Type() != cid.DagCBOR {
			return errf("%.100q is no manifest's CID", e.CID)
		}
	}
	for _, s := range e.Sha256 {
		if b, err := hex.DecodeString(s); err != nil || len(b) != 32 {
			return errf("%.100q is no sha256", s)
		}
	}
	if e.Size < 0 || e.Size > 1<<46 {
		return errf("a size of %d bytes", e.Size)
	}
	switch {
	case len(e.Origins) == 0 && e.CID == "":
		return errf("neither an origin nor a CID")
	case len(e.Origins) > 1 && e.CID == "" && len(e.Sha256) == 0:
		return errf("several origins, and neither a CID nor a sha256 that says that they are the same")
	}
	return nil
}

// add lists a further file's models. What it names, it names for good: an
// entry before it with such a name goes, or loses that name.
func (c *Catalog) add(f *file) {
	if f.Replace || c.byName == nil {
		c.entries, c.byName = nil, map[string]*Entry{}
	}
	for _, e := range f.Models {
		for _, n := range e.names() {
			old := c.byName[n]
			switch {
			case old == nil:
			case old.Name == n:
				c.drop(old)
			default:
				old.Also = slices.DeleteFunc(old.Also, func(a string) bool { return a == n })
			}
			c.byName[n] = e
		}
		c.entries = append(c.entries, e)
	}
}

func (c *Catalog) drop(e *Entry) {
	c.entries = slices.DeleteFunc(c.entries, func(x *Entry) bool { return x == e })
	for n, x := range c.byName {
		if x == e {
			delete(c.byName, n)
		}
	}
}

// Find returns the entry of a name, nil if none has it. Names know no case, and
// are never guessed at: what a name is short for must not depend on what else
// is listed.
func (c *Catalog) Find(name string) *Entry {
	if c == nil {
		return nil
	}
	return c.byName[strings.ToLower(name)]
}

// Entries lists all, in their files' order.
func (c *Catalog) Entries() []*Entry { return slices.Clone(c.entries) }

// Search lists the entries that every word occurs in: in a name, the title,
// the architecture, the quantization, the licence or an origin. No word: all.
func (c *Catalog) Search(words ...string) []*Entry {
	var out []*Entry
	for _, e := range c.entries {
		text := strings.ToLower(strings.Join(append(e.names(), e.Title, e.Architecture, e.Quantization, e.Licence, strings.Join(e.Origins, " ")), "\n"))
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, strings.ToLower(w)) }) {
			out = append(out, e)
		}
	}
	return out
}

// Near lists the names that someone may have meant who wrote this one: those
// of the same family, or those that contain it.
func (c *Catalog) Near(name string) []string {
	family, _, _ := strings.Cut(strings.ToLower(name), ":")
	var out []string
	for _, e := range c.entries {
		f, _, _ := strings.Cut(e.Name, ":")
		if family != "" && (f == family || strings.Contains(e.Name, family) || strings.HasPrefix(family, f)) {
			out = append(out, e.Name)
		}
	}
	return out
}
