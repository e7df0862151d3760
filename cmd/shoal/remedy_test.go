package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/remedy"
)

// kinds returns the kinds that package remedy lists, each with its comment: "ARG, ARG:
// what it is".
func kinds(t *testing.T) map[remedy.Kind]string {
	t.Helper()
	f, err := parser.ParseFile(gotoken.NewFileSet(), "../../node/remedy/remedy.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	all := map[remedy.Kind]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if id, ok := v.Type.(*ast.Ident); ok && id.Name == "Kind" {
			kind, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			all[remedy.Kind(kind)] = v.Comment.Text()
		}
		return true
	})
	if len(all) < 20 {
		t.Fatalf("%d kinds found", len(all))
	}
	return all
}

// Every kind of remedy has a text, and the text uses its arguments.
func TestRemedies(t *testing.T) {
	all := kinds(t)
	for kind, comment := range all {
		of, ok := remedies[kind]
		if !ok {
			t.Errorf("%s: no text", kind)
			continue
		}
		var args []string
		if list, _, ok := strings.Cut(comment, ":"); ok && list == strings.ToUpper(list) {
			args = strings.Split(list, ", ")
		}
		if strings.Join(args, ", ") != strings.Join(of.args, ", ") {
			t.Errorf("%s: arguments %q in its text, %q in its comment", kind, of.args, args)
		}
		var values []string
		for i := range args {
			values = append(values, fmt.Sprintf("value-%d", i))
		}
		said := withRemedy(fmt.Errorf("starting: %w", remedy.For(errors.New("it fails"), kind, values...)))
		if !strings.HasPrefix(said, "starting: it fails; ") {
			t.Errorf("%s: %q", kind, said)
		}
		for _, v := range values {
			if !strings.Contains(said, v) {
				t.Errorf("%s: %q, without %s", kind, said, v)
			}
		}
	}
	for kind := range remedies {
		if _, ok := all[kind]; !ok {
			t.Errorf("%s: a text for an unknown kind", kind)
		}
	}
}

func TestWithRemedy(t *testing.T) {
	bad := errors.New("bad")
	for want, err := range map[string]error{
		"bad":            bad,
		"bad and better": remedy.For(errors.New("bad and better"), "of_next_year"),
		"bad; if you trust it, pass --catalog-key KEY": remedy.For(bad, remedy.TrustCatalog), // from a node that sent no argument
		"late: bad; raise --memory":                    api.Errorf(api.Refused, "late: %w", remedy.For(bad, remedy.RaiseMemory)),
	} {
		if got := withRemedy(err); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
