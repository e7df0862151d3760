package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// sources are the Go files below folders of the repository, by their path in it,
// without tests and what is generated.
func sources(t *testing.T, folders ...string) []string {
	t.Helper()
	var out []string
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(root, folder), func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && strings.HasSuffix(p, ".go") && !strings.HasSuffix(p, "_test.go") && !strings.HasSuffix(p, ".pb.go") {
				p, err = filepath.Rel(root, p)
				out = append(out, filepath.ToSlash(p))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// typed finds what a person would type to shoal.
var typed = regexp.MustCompile("[\\s`]--[a-z]|`shoal\\b")

// untyped are the files that may still say what to type.
// MERGE: take each line out as soon as its file passes.
var untyped = []string{
	"node/engine/devices.go", "node/generate.go", "node/library.go", "node/models.go", "node/names.go", "node/place.go", "node/upkeep.go",
}

// TestOnlyCmdTalks: below cmd no string names a flag or a command. Errors carry a
// remedy, and cmd has the words for it.
func TestOnlyCmdTalks(t *testing.T) {
	files := sources(t, "node", "protocol", "testnet")
	if len(files) < 100 {
		t.Fatalf("%d files found", len(files))
	}
	found := map[string]bool{}
	for _, path := range files {
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, filepath.Join(root, path), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(text, " ") && typed.MatchString(" "+text) { // a single word is an argument of a program
				found[path] = true
				if !slices.Contains(untyped, path) {
					t.Errorf("%s:%d names what to type: %s; see node/remedy", path, set.Position(lit.Pos()).Line, lit.Value)
				}
			}
			return true
		})
	}
	for _, path := range untyped {
		if !found[path] {
			t.Errorf("%s names nothing to type any more: take it off the list", path)
		}
	}
}

// TestOneParameter: a sampling parameter stands in few files, so that a new one is
// soon added. MERGE: the engine's side comes to node/engine/sample alone, and most to 7.
func TestOneParameter(t *testing.T) {
	const most = 8
	name := regexp.MustCompile(`\b(min_p|min-p|MinP)\b`)
	var in []string
	for _, path := range append(sources(t, "cmd", "node", "protocol", "testnet"), "protocol/wire.proto") {
		if name.MatchString(read(t, filepath.Join(root, path))) {
			in = append(in, path)
		}
	}
	if len(in) > most || len(in) < 3 {
		t.Errorf("min-p stands in %d files, want at most %d: %s", len(in), most, strings.Join(in, " "))
	}
}

// offered finds code that looks through an offer's spans or shards, by the names
// that offers go by in this repository.
var offered = regexp.MustCompile(`\b(o|offer|own|Offer)\.(Spans|Shards)\b`)

// loops are the files that may still look through an offer.
// MERGE: take each line out as soon as its file passes.
var loops = []string{
	"node/health.go", "node/heard.go", "node/library.go", "node/models.go", "node/names.go", "node/place.go", "node/plan.go", "node/view.go",
}

// TestOffersAsked: who wants to know what an offer says of a model asks the offer,
// or the index of package network. Only these and node/survey look through one.
func TestOffersAsked(t *testing.T) {
	for _, path := range sources(t, "cmd", "node", "testnet") {
		if strings.HasPrefix(path, "node/network/") || strings.HasPrefix(path, "node/survey/") {
			continue
		}
		found := offered.FindString(read(t, filepath.Join(root, path)))
		switch listed := slices.Contains(loops, path); {
		case found != "" && !listed:
			t.Errorf("%s looks through %s: ask protocol.Offer (SpansOf, Held, Models, NameOf, Calls), or node/network", path, found)
		case found == "" && listed:
			t.Errorf("%s looks through no offer any more: take it off the list", path)
		}
	}
}
