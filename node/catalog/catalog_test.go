package catalog

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// architectures of the models listed, as GGUF files of llama.cpp's converter name them:
// those that the built-in engine computes, and those that take llama.cpp's library.
var architectures = strings.Fields("deepseek2 gemma2 gemma3 gpt-oss llama mistral3 qwen2 qwen3 qwen3moe " +
	"gemma4 lfm2 nomic-bert qwen35 qwen35moe")

// The built-in catalogue is sealed, and whoever reads it can use every entry.
func TestBuiltin(t *testing.T) {
	if key, err := Verify(builtin); err != nil || key != ProjectKey() {
		t.Errorf("sealed by %q: %v", key, err)
	}
	c, err := Load(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, e := range c.Entries() {
		found[e.Architecture] = true
		if !slices.Contains(architectures, e.Architecture) || e.Title == "" || e.Parameters == "" || e.Quantization == "" || e.Checked == "" || len(e.Origins) == 0 {
			t.Errorf("%s is not whole: %+v", e.Name, e)
		}
		if (e.Size > 0) != (len(e.Sha256) > 0) {
			t.Errorf("%s has a size without a sha256, or the other way round", e.Name)
		}
		for _, n := range e.names() {
			if c.Find(strings.ToUpper(n)) != e {
				t.Errorf("%s is not found by %q", e.Name, n)
			}
		}
	}
	for _, a := range architectures {
		if !found[a] {
			t.Errorf("no model of architecture %s", a)
		}
	}
	for _, name := range []string{"smollm2:135m", "qwen3:8b", "llama3.2:3b", "gemma3:4b", "gpt-oss:20b", "mistral-small3.2:24b", "deepseek-r1:671b", "qwen3.5:9b", "gemma4", "nomic-embed-text"} {
		if c.Find(name) == nil {
			t.Errorf("%s is not listed", name)
		}
	}
}

func text(name, more string) string {
	return fmt.Sprintf("[[model]]\nname = %q\nlicence = \"MIT\"\n%s\n", name, more)
}

const (
	origin  = `origins = ["hf:o/r/f.gguf"]`
	someCID = "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
)

func TestParse(t *testing.T) {
	for name, c := range map[string]struct{ text, fails string }{
		"a plain one":           {text("a:1b", origin), ""},
		"a CID alone":           {text("a:1b", `cid = "`+someCID+`"`), ""},
		"two mirrors":           {text("a", `origins = ["hf:o/r/f.gguf", "https://h/f.gguf"]`+"\nsha256 = [\""+strings.Repeat("0a", 32)+`"]`), ""},
		"two, perhaps unlike":   {text("a", `origins = ["hf:o/r/f.gguf", "https://h/f.gguf"]`), "several origins"},
		"nowhere":               {text("a", ""), "neither an origin nor a CID"},
		"no licence":            {"[[model]]\nname = \"a\"\n" + origin, "no licence"},
		"a path for a name":     {text("a/b", origin), "the name"},
		"a file for a name":     {text("a.gguf", origin), "the name"},
		"capitals":              {text("Qwen", origin), "the name"},
		"a CID for a name":      {text(someCID, origin), "is a CID"},
		"twice":                 {text("a", origin) + text("b", origin+"\nalso = [\"a\"]"), "two models"},
		"a local origin":        {text("a", `origins = ["/etc/passwd"]`), "the origin"},
		"a climbing origin":     {text("a", `origins = ["hf:o/r/../../x.gguf"]`), "the origin"},
		"another scheme":        {text("a", `origins = ["file:///etc/passwd"]`), "the origin"},
		"a CID of another kind": {text("a", `cid = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"`), "manifest's CID"},
		"half a hash":           {text("a", origin+"\nsha256 = [\"0a\"]"), "no sha256"},
		"an odd size":           {text("a", origin+"\nsize = -1"), "a size"},
		"a word unknown":        {text("a", origin+"\nsise = 1"), "no setting"},
		"control characters":    {text("a", origin+"\ntitle = \"\\u001b[2J\""), "control characters"},
		"no TOML":               {"[[model", "not a usable catalogue"},
	} {
		_, err := parse([]byte(c.text))
		if c.fails == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.fails != "" && (err == nil || !errors.Is(err, ErrCatalog) || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%s: %v, want %q", name, err, c.fails)
		}
	}
}

func key(t testing.TB, seed byte) (ed25519.PrivateKey, string) {
	k := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	return k, base64.StdEncoding.EncodeToString(k.Public().(ed25519.PublicKey))
}

func TestSignature(t *testing.T) {
	k, pub := key(t, 1)
	plain := []byte(text("a:1b", origin))
	signed, err := Sign(plain, k)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Verify(signed); err != nil || got != pub {
		t.Fatalf("%q %v", got, err)
	}
	again, err := Sign(signed, k)
	if err != nil || !bytes.Equal(again, signed) {
		t.Errorf("signed twice it is another file: %v", err)
	}
	other, otherPub := key(t, 2)
	if moved, err := Sign(signed, other); err != nil {
		t.Error(err)
	} else if got, err := Verify(moved); err != nil || got != otherPub {
		t.Errorf("signed by another: %q %v", got, err)
	}
	// Whatever byte is changed, the seal is broken.
	for i := range signed[:len(signed)-1] {
		bad := bytes.Clone(signed)
		bad[i] ^= 1
		if got, err := Verify(bad); err == nil && got == pub {
			t.Errorf("byte %d may be changed", i)
		}
	}
	if bad := bytes.ReplaceAll(signed, []byte("\n"), []byte("\r\n")); true {
		if _, err := Verify(bad); !errors.Is(err, ErrSignature) {
			t.Errorf("other line ends: %v", err)
		}
	}
	// What comes behind the signature is not under it.
	if _, err := Verify(append(bytes.Clone(signed), text("b", origin)...)); !errors.Is(err, ErrUnsigned) {
		t.Errorf("with more behind: %v", err)
	}
	if _, err := Sign([]byte("own = true\n"), k); !errors.Is(err, ErrCatalog) {
		t.Errorf("own and signed: %v", err)
	}
}

func TestLoad(t *testing.T) {
	k, pub := key(t, 1)
	plain := []byte(text("zzz:1b", origin))
	signed, err := Sign(plain, k)
	if err != nil {
		t.Fatal(err)
	}
	broken := bytes.Replace(signed, []byte("zzz:1b"), []byte("zzz:2b"), 1)
	for name, c := range map[string]struct {
		keys  []string
		src   Source
		fails error
	}{
		"unsigned":                  {nil, Source{Raw: plain}, ErrUnsigned},
		"unsigned, named":           {nil, Source{Raw: plain, Own: true}, nil},
		"unsigned, says it is own":  {nil, Source{Raw: append([]byte("own = true\n"), plain...)}, nil},
		"of a stranger":             {nil, Source{Raw: signed}, ErrKey},
		"of a stranger, named":      {nil, Source{Raw: signed, Own: true}, ErrKey},
		"of someone who is trusted": {[]string{pub}, Source{Raw: signed}, nil},
		"broken, named":             {[]string{pub}, Source{Raw: broken, Own: true}, ErrSignature},
		"a key that is none":        {[]string{"x"}, Source{Raw: signed}, ErrCatalog},
	} {
		cat, err := Load(c.keys, nil, c.src)
		if !errors.Is(err, c.fails) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (cat.Find("zzz:1b") == nil || cat.Find("qwen3:8b") == nil) {
			t.Errorf("%s: it does not extend the built-in one", name)
		}
	}
}

// A later catalogue's names win, and it can take the place of all before.
// TestEditions: of what a key has signed in a series, nothing older than what was
// taken is taken, whether it was taken before or stands beside.
func TestEditions(t *testing.T) {
	k, pub := key(t, 1)
	other, otherPub := key(t, 2)
	keys := []string{pub, otherPub}
	edition := func(k ed25519.PrivateKey, head string) Source {
		raw, err := Sign([]byte(head+text("zzz:1b", origin)), k)
		if err != nil {
			t.Fatal(err)
		}
		return Source{Name: "it", Raw: raw}
	}
	numbered := func(serial int, more string) string {
		return fmt.Sprintf("serial = %d\ndate = \"2026-11-%02d\"\n%s", serial, serial, more)
	}
	first, err := Load(keys, nil, edition(k, numbered(2, "")), edition(k, numbered(5, "series = \"b\"\n")))
	if err != nil {
		t.Fatal(err)
	}
	taken := first.Editions()
	if want := []Edition{{pub, "", 2, "2026-11-02"}, {pub, "b", 5, "2026-11-05"}}; !slices.Equal(taken, want) {
		t.Fatalf("taken: %v, want %v", taken, want)
	}
	for name, c := range map[string]struct {
		sources []Source
		fails   error
		serial  int64 // of the key's own series, then
	}{
		"the same":           {[]Source{edition(k, numbered(2, ""))}, nil, 2},
		"a newer one":        {[]Source{edition(k, numbered(3, ""))}, nil, 3},
		"an older one":       {[]Source{edition(k, numbered(1, ""))}, ErrOlder, 0},
		"one without number": {[]Source{edition(k, "")}, ErrOlder, 0},
		"of another series":  {[]Source{edition(k, numbered(5, "series = \"b\"\n"))}, nil, 2},
		"of another key":     {[]Source{edition(other, numbered(1, ""))}, nil, 2},
		"both at once":       {[]Source{edition(k, numbered(4, "")), edition(k, numbered(3, ""))}, ErrOlder, 0},
		"unsigned":           {[]Source{{Raw: []byte("serial = 1\ndate = \"2026-01-01\"\n" + text("zzz:1b", origin)), Own: true}}, nil, 2},
	} {
		cat, err := Load(keys, taken, c.sources...)
		if !errors.Is(err, c.fails) || (err == nil) != (c.fails == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.fails)
		}
		if err == nil {
			if e := (Edition{Key: pub}).in(cat.Editions()); e.Serial != c.serial {
				t.Errorf("%s: %+v is remembered", name, e)
			}
		}
	}
	if _, err := Load(keys, taken, edition(k, numbered(1, ""))); err == nil || !strings.Contains(err.Error(), "number 1, after number 2 of 2026-11-02") {
		t.Errorf("it is not said which: %v", err)
	}
	for _, head := range []string{"serial = -1\n", "serial = 1\n", "serial = 1\ndate = \"yesterday\"\n", "series = \"A b\"\n"} {
		if _, err := parse([]byte(head + text("a", origin))); !errors.Is(err, ErrCatalog) {
			t.Errorf("%q: %v", head, err)
		}
	}
}

func TestOrder(t *testing.T) {
	own := func(s string) Source { return Source{Raw: []byte(s), Own: true} }
	c, err := Load(nil, nil, own(text("qwen3", `origins = ["hf:me/mine/q.gguf"]`)), own(text("gemma3:4b", `origins = ["hf:me/mine/g.gguf"]`)))
	if err != nil {
		t.Fatal(err)
	}
	if e := c.Find("qwen3"); e.Origins[0] != "hf:me/mine/q.gguf" {
		t.Errorf("qwen3 is %+v", e)
	}
	if e := c.Find("qwen3:8b"); e == nil || slices.Contains(e.Also, "qwen3") {
		t.Errorf("qwen3:8b is %+v", e)
	}
	if e := c.Find("gemma3"); e != nil {
		t.Errorf("a name of an entry that went stands for %+v", e)
	}
	if n := len(c.Search("gemma3:4b")); n != 1 {
		t.Errorf("%d models gemma3:4b", n)
	}
	c, err = Load(nil, nil, own("replace = true\n"+text("only:1b", origin)))
	if err != nil || len(c.Entries()) != 1 || c.Find("qwen3:8b") != nil {
		t.Errorf("replaced: %d entries, %v", len(c.Entries()), err)
	}
}

func TestSearch(t *testing.T) {
	c, err := Load(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	names := func(es []*Entry) (out []string) {
		for _, e := range es {
			out = append(out, e.Name)
		}
		return out
	}
	if got := names(c.Search("SMOLLM2", "135")); !slices.Equal(got, []string{"smollm2:135m"}) {
		t.Errorf("got %q", got)
	}
	if got := names(c.Search("mit", "qwen2")); !slices.Equal(got, []string{"deepseek-r1:7b", "deepseek-r1:32b"}) {
		t.Errorf("got %q", got)
	}
	if len(c.Search()) != len(c.Entries()) || len(c.Search("no such model")) != 0 {
		t.Error("no word is not everything, or nonsense is something")
	}
	if got := c.Near("llama3.2:9b"); !slices.Contains(got, "llama3.2:3b") || slices.Contains(got, "qwen3:8b") {
		t.Errorf("near: %q", got)
	}
}

// FuzzOpen: no file brings the reader down, and what it takes it can sign and
// read again.
func FuzzOpen(f *testing.F) {
	k, pub := key(f, 1)
	signed, err := Sign([]byte(text("a:1b", origin)), k)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(builtin)
	f.Add(signed)
	f.Add([]byte("own = true\nreplace = true\n" + text("a", origin)))
	f.Add([]byte(marker + pub + " AAAA\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, _, _ = open(Source{Raw: raw}, nil)
		file, _, err := open(Source{Raw: raw, Own: true}, []string{pub, ProjectKey()})
		if err != nil {
			return
		}
		(&Catalog{}).add(file)
		for _, e := range file.Models {
			if len(e.Sums()) != len(e.Sha256) || (e.CID != "") != e.ID().Defined() {
				t.Fatalf("taken and not usable: %+v", e)
			}
		}
		if file.Own {
			return
		}
		again, err := Sign(raw, k)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Verify(again); err != nil || got != pub {
			t.Fatalf("signed and not verified: %v", err)
		}
	})
}
