// Package importmap holds the test of what may import what: cmd -> node ->
// node/* -> protocol, and never across.
package importmap

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/shoalnet/shoal/"
)

// allowed lists, for each folder, which of our folders it may import; one that ends in
// /... includes all folders below it. A folder's own subfolders are
// always allowed. Folders without a line are a mistake.
var allowed = map[string][]string{
	"protocol":        nil,
	"protocol/gguf":   nil,
	"protocol/member": nil,
	"protocol/blocks": {"protocol"},

	"node/engine/llama/random": {"protocol/gguf"},

	"node/ahead":             nil,
	"node/ahead/texts":       {"node/ahead"},
	"node/draft":             {"node/engine", "node/engine/sample", "protocol"},
	"node/api":               {"node/remedy", "protocol"},
	"node/catalog":           {"node/remedy"},
	"node/convert":           {"node/engine", "node/fence", "node/files", "node/proc", "node/remedy", "protocol/..."},
	"node/door":              {"node/files", "node/home", "node/remedy"},
	"node/engine":            {"node/engine/cut", "node/fence", "node/proc", "node/remedy", "protocol", "protocol/blocks", "protocol/gguf"},
	"node/engine/cut":        {"protocol/..."},
	"node/engine/enginetest": {"node/engine", "node/engine/sample", "node/proc", "protocol/...", "contrib/randommodel", "contrib/tinymodel"},
	"node/engine/ggml":       {"node/engine", "node/engine/sample", "node/engine/tune", "node/fence", "node/remedy"},
	"node/engine/llama":      {"node/engine", "node/engine/cut", "node/engine/sample", "node/engine/tune", "node/fence", "node/proc", "node/remedy", "protocol/gguf"},
	"node/engine/sample":     {"protocol"},
	"node/engine/tune":       {},
	"node/exchange":          {"node/backoff", "node/files", "node/ranges", "protocol"},
	"node/exchange/bitswap":  {"protocol"},
	"node/backoff":           nil,
	"node/files":             nil,
	"node/fence":             nil,
	"node/home":              nil,
	"node/generate":          {"node/backoff", "node/api", "node/metrics", "node/remedy", "node/route", "node/session", "node/standing", "node/store", "node/survey", "node/text/...", "node/traces", "protocol"},
	"node/keys":              {"node/api", "node/files"},
	"node/lend":              nil,
	"node/lend/policy":       {"node/lend", "protocol/member"},
	"node/lending":           {"node/api", "node/lend/...", "node/remedy", "node/stage", "protocol/..."},
	"node/library": {
		"node/api", "node/catalog", "node/exchange", "node/files", "node/home", "node/remedy", "node/store", "node/survey", "node/text/...",
		"protocol/...", "contrib/tinymodel",
	},
	"node/metrics":       nil,
	"node/network":       {"node/backoff", "node/files", "node/remedy", "protocol/..."},
	"node/network/joint": {"node/network", "protocol/..."},
	"node/network/outer": {"node/files"},
	"node/network/reach": nil,
	"node/page":          nil,
	"node/proc":          nil,
	"node/remedy":        nil,
	"node/placement":     {"protocol"},
	"node/ranges":        nil,
	"node/report":        {"node/api", "node/door", "node/exchange", "node/files", "node/lend", "node/metrics", "node/network/...", "node/serve", "node/store", "node/survey", "protocol"},
	"node/route":         {"protocol"},
	"node/serve": {"node/ahead", "node/backoff", "node/draft", "node/api", "node/engine", "node/engine/cut", "node/files", "node/lend", "node/metrics", "node/placement", "node/remedy", "node/route", "node/session",
		"node/stage", "node/standing", "node/store", "node/survey", "node/text/constrain", "node/traces", "protocol/..."},
	"node/session":        {"node/backoff", "protocol"},
	"node/stage":          {"node/backoff", "node/engine", "node/engine/sample", "protocol"},
	"node/standing":       {"node/files"},
	"node/store":          {"node/backoff", "node/files", "node/ranges", "node/remedy", "protocol/..."},
	"node/swarms":         {"node/network/...", "node/swarm", "protocol/..."},
	"node/allowance":      nil,
	"node/swarm":          {"node/allowance", "node/api", "node/backoff", "node/files", "node/home", "node/network", "node/network/outer", "node/remedy", "protocol/..."},
	"node/survey":         {"node/placement", "node/route", "node/session", "node/standing", "protocol"},
	"node/text":           nil,
	"node/traces":         nil,
	"node/text/answer":    {"protocol"},
	"node/text/constrain": {"protocol"},
	"node/text/jinja":     nil,
	"node":                {"node/...", "protocol/...", "contrib/tinymodel"},

	"testnet":               {"node/files", "node/home", "node/proc", "protocol"},
	"testnet/hostile":       {"protocol"},
	"testnet/link":          nil,
	"testnet/nat":           nil,
	"testnet/natsim":        {"testnet/nat"},
	"testnet/natlab":        {"node/api", "node/proc", "protocol", "testnet", "testnet/nat"},
	"testnet/natlab/reach":  {"testnet/..."},
	"testnet/sim":           {"testnet/link"},
	"testnet/scenario":      {"node/proc", "testnet", "testnet/link"},
	"cmd/shoal":             {"contrib/launchd", "contrib/systemd", "contrib/tinymodel", "node/...", "protocol/...", "testnet/..."},
	"cmd/shoal/bench":       {"cmd/shoal/term", "contrib/randommodel", "contrib/scriptmodel", "contrib/tinymodel", "node/...", "protocol/...", "testnet/..."},
	"cmd/shoal/bench/plain": nil,
	"cmd/shoal/doctor":      {"node/api", "node/files", "node/home", "node/proc"},
	"cmd/shoal/install":     {"node/files"},
	"cmd/shoal/term":        nil,

	"contrib/launchd":                nil,
	"contrib/systemd":                nil,
	"contrib/randommodel":            {"protocol/gguf"},
	"contrib/tinymodel":              nil,
	"contrib/scriptmodel":            {"node/text", "protocol/..."},
	"contrib/scriptmodel/scriptgguf": {"contrib/scriptmodel"},
	"contrib/clients":                {"contrib/scriptmodel", "testnet/..."},
	"contrib/importmap":              nil,
	"contrib/lint":                   nil,
	"contrib/nocgo":                  nil,
	"contrib/prometheus":             nil,
	"contrib/kubernetes":             nil,
}

// kept lists dependencies that only certain folders may import.
var kept = []struct{ prefix, only string }{
	{"github.com/ipfs/boxo", "node/exchange/bitswap cmd/shoal/bench/plain node/store"},
	{"github.com/ollama/ollama", "node/convert node/engine/ggml"},
	// Packages built with C: importing them requires C, too.
	{module + "node/engine/ggml", "cmd/shoal"},
	{module + "node/engine/llama", "cmd/shoal"},
	{module + "node/convert", "cmd/shoal"},
	{"github.com/urfave/cli", "cmd/shoal"},
	{"github.com/libp2p/go-libp2p-kad-dht", "node/network"},
	{"github.com/prometheus", "node/metrics"},
	{"go.opentelemetry.io/otel/sdk", "node/traces"},
	{"go.opentelemetry.io/otel/exporters", "node/traces"},
}

// pure folders only decide; they do no I/O.
var pure = map[string][]string{
	"protocol":            {"net", "os", "context", "log/slog"},
	"protocol/gguf":       {"net", "os", "time", "context", "log/slog"},
	"protocol/member":     {"net", "os", "context", "log/slog"},
	"node/ranges":         {"net", "os", "time", "context", "log/slog"},
	"node/catalog":        {"net", "os", "time", "context", "log/slog", "math/rand"},
	"protocol/blocks":     {"net", "os", "time", "context", "log/slog", "math/rand"},
	"node/ahead":          {"net", "os", "context", "log/slog"},
	"node/placement":      {"net", "os", "context", "log/slog", "math/rand"},
	"node/route":          {"net", "os", "context", "log/slog", "math/rand"},
	"node/network/reach":  {"os", "context", "log/slog", "math/rand"},
	"node/text/answer":    {"net", "os", "time", "context", "log/slog"},
	"node/text/constrain": {"net", "os", "time", "context", "log/slog", "math/rand"},
	"node/engine/cut":     {"net", "os", "time", "context", "log/slog", "math/rand"},
	"node/engine/sample":  {"net", "os", "time", "context", "log/slog", "math/rand"},
}

// imports returns what the files of each folder import, without tests.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); p != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if _, ok := all[rel]; !ok {
			all[rel] = nil
		}
		if strings.HasSuffix(p, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, s := range f.Imports {
			name, err := strconv.Unquote(s.Path.Value)
			if err != nil {
				return err
			}
			all[rel] = append(all[rel], name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func matches(patterns []string, folder string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		below, deep := strings.CutSuffix(p, "/...")
		return folder == below || deep && strings.HasPrefix(folder, below+"/")
	})
}

func TestImportMap(t *testing.T) {
	seen := 0
	for folder, list := range imports(t) {
		rule, ok := allowed[folder]
		if !ok {
			t.Errorf("folder %s is not on the map: add it, or do without it", folder)
			continue
		}
		seen++
		for _, imp := range list {
			if ours, ok := strings.CutPrefix(imp, module); ok {
				if !matches(append([]string{folder + "/..."}, rule...), ours) {
					t.Errorf("%s must not import %s", folder, ours)
				}
			}
			for _, k := range kept {
				if strings.HasPrefix(imp, k.prefix) && !slices.Contains(strings.Fields(k.only), folder) {
					t.Errorf("%s imports %s, which belongs into %s", folder, imp, k.only)
				}
			}
			for _, no := range pure[folder] {
				if imp == no || strings.HasPrefix(imp, no+"/") {
					t.Errorf("%s is pure and must not import %s", folder, imp)
				}
			}
		}
	}
	if seen != len(allowed) {
		t.Errorf("the map has %d folders, the tree %d of them", len(allowed), seen)
	}
}

// TestTopLevel: nothing else may be at the top level of the repository.
func TestTopLevel(t *testing.T) {
	want := strings.Fields("node protocol contrib cmd testnet go.mod go.sum README.md LICENSE Makefile findings bin dist")
	entries, err := filepath.Glob(path.Join(root, "*"))
	if err != nil || len(entries) < 9 {
		t.Fatal(entries, err)
	}
	for _, e := range entries {
		if name := filepath.Base(e); !slices.Contains(want, name) && !strings.HasPrefix(name, ".") {
			t.Errorf("%s lies at the top", name)
		}
	}
}
