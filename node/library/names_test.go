package library

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/catalog"
)

// Catalogues of the home's catalog.d are taken if they are signed by someone
// trusted, or say that they are the operator's own.
func TestCatalogDir(t *testing.T) {
	home := t.TempDir()
	entry := "[[model]]\nname = \"mine:1\"\nlicence = \"MIT\"\norigins = [\"hf:o/r/f.gguf\"]\n"
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Join(home, "catalog.d"), 0o755), os.WriteFile(filepath.Join(home, "catalog.d", "a.toml"), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write(entry)
	if _, err := LoadCatalog(home, nil, nil); !errors.Is(err, ErrCatalog) || !strings.Contains(err.Error(), "own = true") {
		t.Errorf("unsigned: %v", err)
	}
	write("own = true\n" + entry)
	if c, err := LoadCatalog(home, nil, nil); err != nil || c.Find("mine:1") == nil {
		t.Errorf("own: %v", err)
	}
	if _, err := LoadCatalog(home, []string{filepath.Join(home, "none.toml")}, nil); !errors.Is(err, ErrCatalog) {
		t.Errorf("none: %v", err)
	}
}

// A home remembers the newest edition that it has taken of a signed catalogue: an
// older one in its place is refused, until the operator says otherwise.
func TestCatalogRollback(t *testing.T) {
	home := t.TempDir()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	keys := []string{base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))}
	path := filepath.Join(home, "a.toml")
	load := func(serial int) error {
		t.Helper()
		head := ""
		if serial > 0 {
			head = fmt.Sprintf("serial = %d\ndate = \"2026-11-0%d\"\n", serial, serial)
		}
		raw, err := catalog.Sign([]byte(head+"[[model]]\nname = \"mine:1\"\nlicence = \"MIT\"\norigins = [\"hf:o/r/f.gguf\"]\n"), key)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = LoadCatalog(home, []string{path}, keys)
		return err
	}
	for _, serial := range []int{0, 2, 2, 3} {
		if err := load(serial); err != nil {
			t.Fatalf("number %d: %v", serial, err)
		}
	}
	for _, serial := range []int{2, 0} {
		if err := load(serial); !errors.Is(err, ErrCatalog) || !errors.Is(err, catalog.ErrOlder) || !strings.Contains(err.Error(), "catalogs.json") {
			t.Errorf("number %d after 3: %v", serial, err)
		}
	}
	remembered := filepath.Join(home, "catalogs.json")
	if err := os.WriteFile(remembered, []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := load(3); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("a damaged memory: %v", err)
	}
	if err := errors.Join(os.Remove(remembered), load(2)); err != nil {
		t.Errorf("forgotten: %v", err)
	}
}
