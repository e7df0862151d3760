package catalog

import (
	"bytes"
	"crypto/ed25519"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/node/remedy"
)

//go:embed catalog.toml
var builtin []byte

//go:embed project.pub
var projectKey string

// What may be wrong with a signature.
var (
	ErrUnsigned  = errors.New("it is not signed")
	ErrSignature = errors.New("its signature is not good")
	ErrKey       = errors.New("it is signed by a key that is not trusted")
)

const (
	domain = "shoal catalogue 1\n"
	marker = "# signature ed25519 "
)

// ProjectKey is the key that seals the catalogue inside the program.
func ProjectKey() string { return strings.TrimSpace(projectKey) }

// ParseKey reads a public key in base64. All errors wrap ErrCatalog.
func ParseKey(s string) (ed25519.PublicKey, error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s))
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, remedy.For(fmt.Errorf("%w: %.80q is not a public key", ErrCatalog, s), remedy.MakeKey)
	}
	return b, nil
}

// split takes the signature line off: what it seals, the key and the
// signature. Only the last line can be one.
func split(raw []byte) (body []byte, key ed25519.PublicKey, sig []byte, err error) {
	end := bytes.TrimRight(raw, "\r\n")
	at := bytes.LastIndexByte(end, '\n') + 1
	line, ok := bytes.CutPrefix(end[at:], []byte(marker))
	if !ok {
		return raw, nil, nil, ErrUnsigned
	}
	fields := strings.Fields(string(line))
	if len(fields) != 2 {
		return nil, nil, nil, fmt.Errorf("%w: the line is not whole", ErrSignature)
	}
	key, err = ParseKey(fields[0])
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w: it names no key", ErrSignature)
	}
	sig, err = base64.StdEncoding.DecodeString(fields[1])
	if err != nil || len(sig) != ed25519.SignatureSize {
		return nil, nil, nil, fmt.Errorf("%w: the line is not whole", ErrSignature)
	}
	return raw[:at], key, sig, nil
}

// Verify returns the key, in base64, that a catalogue is signed with. Errors
// wrap ErrUnsigned or ErrSignature. Whether the key is to be trusted is
// another question.
func Verify(raw []byte) (string, error) {
	body, key, sig, err := split(raw)
	if err != nil {
		return "", err
	}
	if !ed25519.Verify(key, append([]byte(domain), body...), sig) {
		return "", fmt.Errorf("%w: the file was changed after it was signed", ErrSignature)
	}
	return base64.StdEncoding.EncodeToString(key), nil
}

// Sign returns a catalogue with a signature at its end, in the place of the one
// it may have. A catalogue that cannot be read is an ErrCatalog.
func Sign(raw []byte, key ed25519.PrivateKey) ([]byte, error) {
	body, _, _, err := split(raw)
	if errors.Is(err, ErrSignature) { // a broken one goes, too
		end := bytes.TrimRight(raw, "\r\n")
		body = raw[:bytes.LastIndexByte(end, '\n')+1]
	}
	f, err := parse(body)
	if err != nil {
		return nil, err
	}
	if f.Own {
		return nil, errf("it says own = true, which is for catalogues without a signature; take that out")
	}
	if len(body) > 0 && body[len(body)-1] != '\n' {
		body = append(slices.Clone(body), '\n')
	}
	sig := ed25519.Sign(key, append([]byte(domain), body...))
	pub := key.Public().(ed25519.PublicKey)
	return fmt.Appendf(slices.Clone(body), "%s%s %s\n", marker, base64.StdEncoding.EncodeToString(pub), base64.StdEncoding.EncodeToString(sig)), nil
}

// Source is a catalogue of the operator's.
type Source struct {
	Name string // for messages
	Raw  []byte
	Own  bool // take it unsigned: the operator has named it
}

// Load returns what the built-in catalogue and then those of the operator list.
// keys, in base64, are trusted besides the project's. A catalogue with a
// signature must have a good one by a trusted key, and be no older than another
// edition that is given or was taken before. One without is taken only as the
// operator's own: by Source.Own, or because it says own = true. All errors wrap
// ErrCatalog, and of an older edition ErrOlder, too.
func Load(keys []string, taken []Edition, sources ...Source) (*Catalog, error) {
	trusted := []string{ProjectKey()}
	for _, k := range keys {
		key, err := ParseKey(k)
		if err != nil {
			return nil, err
		}
		trusted = append(trusted, base64.StdEncoding.EncodeToString(key))
	}
	sources = append([]Source{{Name: "the built-in catalogue", Raw: builtin}}, sources...)
	files, editions := make([]*file, len(sources)), make([]Edition, len(sources))
	newest := slices.Clone(taken)
	for i, s := range sources {
		f, key, err := open(s, trusted)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
		files[i], editions[i] = f, Edition{key, f.Series, f.Serial, f.Date}
		if key != "" {
			newest = merge(newest, editions[i])
		}
	}
	c := &Catalog{editions: newest}
	for i, e := range editions { // the first came with the program, and may be older
		if newer := e.in(newest); i > 0 && e.Key != "" && e.Serial < newer.Serial {
			return nil, fmt.Errorf("%s: %w: %w: number %d, after number %d of %s", sources[i].Name, ErrCatalog, ErrOlder, e.Serial, newer.Serial, newer.Date)
		}
		c.add(files[i])
	}
	return c, nil
}

// open reads a source, and says by which key it is signed; "": by none.
func open(s Source, trusted []string) (f *file, key string, err error) {
	if len(s.Raw) > MaxFile {
		return nil, "", errf("%d MiB; %d are possible", len(s.Raw)>>20, MaxFile>>20)
	}
	key, serr := Verify(s.Raw)
	if serr != nil && !errors.Is(serr, ErrUnsigned) {
		return nil, "", fmt.Errorf("%w: %w", ErrCatalog, serr)
	}
	if serr == nil && !slices.Contains(trusted, key) {
		return nil, "", remedy.For(fmt.Errorf("%w: %w: %s", ErrCatalog, ErrKey, key), remedy.TrustCatalog, key)
	}
	if f, err = parse(s.Raw); err != nil {
		return nil, "", err
	}
	if serr != nil && !s.Own && !f.Own {
		return nil, "", remedy.For(fmt.Errorf("%w: %w: sign it, or if it is your own, write own = true at its top", ErrCatalog, serr), remedy.SignCatalog)
	}
	for _, e := range f.Models {
		e.Own = serr != nil
	}
	return f, key, nil
}
