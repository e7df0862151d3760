package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// sources returns the Go files below folders of the repository, by their path in it,
// without tests and generated files.
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

// typed matches flags and commands of shoal.
var typed = regexp.MustCompile("[\\s`]--[a-z]|`shoal\\b")

// TestOnlyCmdTalks: outside cmd no string names a flag or a command. Errors carry a
// remedy, and cmd puts it into words.
func TestOnlyCmdTalks(t *testing.T) {
	files := sources(t, "node", "protocol", "testnet")
	if len(files) < 100 {
		t.Fatalf("%d files found", len(files))
	}
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
			if strings.Contains(text, " ") && typed.MatchString(" "+text) { // a single word is a program's argument
				t.Errorf("%s:%d names what to type: %s; see node/remedy", path, set.Position(lit.Pos()).Line, lit.Value)
			}
			return true
		})
	}
}

// TestOneParameter: few files mention a sampling parameter, so that a new one is easy to
// add.
func TestOneParameter(t *testing.T) {
	const most = 7
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

// TestNamedFiles: the files that the documents for developers name, and the lists of
// files in packages' doc.go, exist.
func TestNamedFiles(t *testing.T) {
	exists := func(where, path string) {
		if _, err := os.Stat(filepath.Join(root, path)); err != nil && !strings.Contains(path, "NAME") {
			t.Errorf("%s names %s: %v", where, path, err)
		}
	}
	named := regexp.MustCompile("`((?:cmd|contrib|node|protocol|testnet)/[\\w./-]+)`")
	linked := regexp.MustCompile(`\]\(([\w./-]+)\)`)
	for _, doc := range []string{"README.md", "contrib/README.md", ".github/ARCHITECTURE.md", ".github/CONTRIBUTING.md"} {
		text := read(t, filepath.Join(root, doc))
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			exists(doc, m[1])
		}
		for _, m := range linked.FindAllStringSubmatch(text, -1) {
			exists(doc, filepath.Join(filepath.Dir(doc), m[1]))
		}
	}
	listed, lists := regexp.MustCompile(`(?m)^//\t(\w+\.go)\s`), 0
	for _, path := range sources(t, "cmd", "node", "protocol", "testnet") {
		if filepath.Base(path) != "doc.go" {
			continue
		}
		for _, m := range listed.FindAllStringSubmatch(read(t, filepath.Join(root, path)), -1) {
			lists++
			exists(path, filepath.Join(filepath.Dir(path), m[1]))
		}
	}
	if lists < 50 {
		t.Errorf("%d files found in lists", lists)
	}
}
