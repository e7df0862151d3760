package importmap

import (
	"bytes"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"math"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The limits of the root, package node: it wires the services and does none of their work.
const (
	maxLines   = 1000 // of all files but tests
	maxMethods = 30   // of Node
	maxBack    = 12   // uses between files that go backwards in the best order of the files
)

// checked is a type-checked package.
type checked struct {
	path  string
	fset  *token.FileSet
	files []*ast.File
	info  *types.Info
	pkg   *types.Package
}

// check type-checks packages by their patterns, without their tests and without
// those that need C. What they import comes from Go's build cache.
func check(t *testing.T, patterns ...string) (out []checked) {
	t.Helper()
	list := func(args ...string) []string {
		cmd := exec.Command("go", append([]string{"list"}, args...)...)
		cmd.Dir = root
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		text, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
		}
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
	export := map[string]string{}
	for _, line := range list(append([]string{"-e", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}"}, patterns...)...) {
		path, file, _ := strings.Cut(line, "\t")
		export[path] = file
	}
	for _, line := range list(append([]string{"-e", "-export", "-f", `{{if and .Export (not .CgoFiles)}}{{.ImportPath}}{{"\t"}}{{.Dir}}{{"\t"}}{{join .GoFiles " "}}{{end}}`}, patterns...)...) {
		path, rest, ok := strings.Cut(line, "\t")
		if !ok {
			continue
		}
		dir, names, _ := strings.Cut(rest, "\t")
		c := checked{path: strings.TrimPrefix(path, module), fset: token.NewFileSet(), info: &types.Info{
			Uses: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}, Types: map[ast.Expr]types.TypeAndValue{},
		}}
		for _, name := range strings.Fields(names) {
			f, err := parser.ParseFile(c.fset, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			c.files = append(c.files, f)
		}
		conf := types.Config{Importer: importer.ForCompiler(c.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(export[path]) })}
		pkg, err := conf.Check(path, c.fset, c.files, c.info)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		c.pkg = pkg
		out = append(out, c)
	}
	return out
}

func TestRootBudget(t *testing.T) {
	node := check(t, "./node")[0]
	lines := 0
	for _, f := range node.files {
		lines += node.fset.Position(f.FileEnd).Line
	}
	typ, _ := node.pkg.Scope().Lookup("Node").(*types.TypeName)
	if typ == nil {
		t.Fatal("package node has no Node")
	}
	methods := typ.Type().(*types.Named).NumMethods()
	back := backArrows(arrows(node))
	t.Logf("package node: %d lines in %d files, %d methods of Node, %d uses that run back", lines, len(node.files), methods, back)
	if lines > maxLines {
		t.Errorf("package node has %d lines, at most %d: what works belongs into a service", lines, maxLines)
	}
	if methods > maxMethods {
		t.Errorf("Node has %d methods, at most %d", methods, maxMethods)
	}
	if back > maxBack {
		t.Errorf("%d uses between the files of package node run back, at most %d", back, maxBack)
	}
}

// arrows reports, for each file of a package, which other files it uses.
func arrows(c checked) [][]bool {
	at := map[string]int{}
	for i, f := range c.files {
		at[c.fset.Position(f.FileStart).Filename] = i
	}
	uses := make([][]bool, len(c.files))
	for i := range uses {
		uses[i] = make([]bool, len(c.files))
	}
	for id, obj := range c.info.Uses {
		if obj.Pkg() != c.pkg || !obj.Pos().IsValid() {
			continue
		}
		if v, ok := obj.(*types.Var); ok && v.IsField() { // to read a field is not to call
			continue
		}
		uses[at[c.fset.Position(id.Pos()).Filename]][at[c.fset.Position(obj.Pos()).Filename]] = true
	}
	return uses
}

// backArrows returns how many arrows between files go backwards in the order of the files
// in which the fewest do.
func backArrows(uses [][]bool) int {
	n := len(uses)
	if n > 20 {
		return math.MaxInt // too many files to try all orders
	}
	users := make([]uint, n) // of each file: who uses it
	for i := range uses {
		for j := range uses[i] {
			if i != j && uses[i][j] {
				users[j] |= 1 << i
			}
		}
	}
	best := make([]int, 1<<n) // for the files of a set laid first, in their best order
	for set := 1; set < len(best); set++ {
		best[set] = math.MaxInt
		for last := range n {
			if before := uint(set) &^ (1 << last); before != uint(set) {
				// Those that come later and use last run back.
				back := bits.OnesCount(^before & users[last] & (1<<n - 1) &^ (1 << last))
				best[set] = min(best[set], best[before]+back)
			}
		}
	}
	return best[len(best)-1]
}

func TestBackArrows(t *testing.T) {
	for _, c := range []struct {
		uses string // one row per file
		want int
	}{
		{"011 001 000", 0},
		{"000 100 110", 0},
		{"010 100 000", 1},
		{"011 101 110", 3},
	} {
		var uses [][]bool
		for _, row := range strings.Fields(c.uses) {
			var r []bool
			for _, x := range row {
				r = append(r, x == '1')
			}
			uses = append(uses, r)
		}
		if got := backArrows(uses); got != c.want {
			t.Errorf("%s: %d, want %d", c.uses, got, c.want)
		}
	}
}

// TestSpanLoops: only node/network and node/survey loop over an offer's spans or shards;
// all other packages ask them which peers serve or hold what.
func TestSpanLoops(t *testing.T) {
	all := check(t, "./node/...", "./testnet/...", "./cmd/...")
	if len(all) < 40 {
		t.Errorf("only %d packages could be checked", len(all))
	}
	for _, c := range all {
		if c.path == "node/network" || c.path == "node/survey" {
			continue
		}
		for _, f := range c.files {
			ast.Inspect(f, func(n ast.Node) bool {
				loop, ok := n.(*ast.RangeStmt)
				if !ok {
					return true
				}
				what := types.TypeString(c.info.TypeOf(loop.X), nil)
				if slices.Contains([]string{"[]*" + module + "protocol.ServedSpan", "[]*" + module + "protocol.HeldShards"}, what) {
					t.Errorf("%s: a loop over %s of an offer: ask node/survey", c.fset.Position(loop.Pos()), strings.TrimPrefix(what, "[]*"+module))
				}
				return true
			})
		}
	}
}
