package importmap

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// source type-checks the folders of ours from their source. Packages of others are
// empty, and what is unknown for that is left out: enough to find the types of ours.
type source struct {
	fset  *token.FileSet
	done  map[string]*types.Package
	files map[string][]*ast.File
	info  *types.Info
}

func (s *source) Import(name string) (*types.Package, error) {
	if p := s.done[name]; p != nil {
		return p, nil
	}
	folder, ours := strings.CutPrefix(name, module)
	s.done[name] = types.NewPackage(name, filepath.Base(name))
	if !ours {
		s.done[name].MarkComplete()
		return s.done[name], nil
	}
	found, err := build.ImportDir(filepath.Join(root, folder), 0)
	if err != nil {
		return nil, err
	}
	for _, f := range slices.Concat(found.GoFiles, found.CgoFiles) {
		file, err := parser.ParseFile(s.fset, filepath.Join(root, folder, f), nil, 0)
		if err != nil {
			return nil, err
		}
		s.files[folder] = append(s.files[folder], file)
	}
	cfg := types.Config{Importer: s, Error: func(error) {}, FakeImportC: true}
	s.done[name], _ = cfg.Check(name, s.fset, s.files[folder], s.info) // the error is that others are empty
	return s.done[name], nil
}

// TestOffersAreReadInOnePlace: who serves what is asked of package survey. Nobody but
// it and the network loops over what an offer says of models.
func TestOffersAreReadInOnePlace(t *testing.T) {
	s := &source{fset: token.NewFileSet(), done: map[string]*types.Package{}, files: map[string][]*ast.File{}, info: &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}}
	loops := map[string]int{}
	for folder := range imports(t) {
		if !strings.HasPrefix(folder, "node") && !strings.HasPrefix(folder, "cmd") && !strings.HasPrefix(folder, "testnet") && folder != "protocol" {
			continue
		}
		if _, err := s.Import(module + folder); err != nil {
			t.Fatal(folder, err)
		}
	}
	for folder, files := range s.files {
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool {
				if r, ok := n.(*ast.RangeStmt); ok {
					switch kind := types.TypeString(s.info.TypeOf(r.X), (*types.Package).Name); kind {
					case "[]*protocol.ServedSpan", "[]*protocol.HeldShards":
						loops[folder]++
						if !slices.Contains([]string{"node/network", "node/survey", "protocol"}, folder) {
							t.Errorf("%s loops over %s of an offer; ask package survey", s.fset.Position(r.Pos()), kind)
						}
					}
				}
				return true
			})
		}
	}
	if loops["node/survey"] < 4 {
		t.Errorf("only %d loops were found in node/survey: the types are not", loops["node/survey"])
	}
}
