// Command nocgo lists the packages of this module that need no C compiler: they
// and their tests build with cgo switched off. It has the Go command build all of
// them that way, so nobody has to keep a list. The others are named on standard
// error.
//
// A package that does not build for another reason, such as a mistake in it, stays on the
// list unless it depends on C; and every omitted package is named.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// listed holds what is used of the Go command's output about a package. A package with
// tests is listed up to four times: by itself, built for its tests, its external
// tests, and the test's program.
type listed struct {
	ImportPath string // "p", "p [p.test]", "p_test [p.test]" or "p.test"
	ForTest    string // p, except in the first and the last of these
	Incomplete bool   // it did not build
	Deps       []string
	CgoFiles   []string
	Standard   bool
	Module     *struct{ Main bool }
}

func main() {
	without, with, err := split()
	if err != nil {
		fmt.Fprintln(os.Stderr, "nocgo:", err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "left out, since they need C:", strings.Join(with, " "))
	fmt.Println(strings.Join(without, "\n"))
}

// split returns the packages of this module: those that build with their tests
// without C, and those that need it.
func split() (without, with []string, err error) {
	cgo, err := list("CGO_ENABLED=1", "-json=ImportPath,CgoFiles,Standard")
	if err != nil {
		return nil, nil, err
	}
	hasC := map[string]bool{}
	for _, p := range cgo {
		hasC[p.ImportPath] = len(p.CgoFiles) > 0 && !p.Standard // the standard library works without C
	}
	built, err := list("CGO_ENABLED=0", "-export", "-json=ImportPath,ForTest,Incomplete,Deps,Module")
	if err != nil {
		return nil, nil, err
	}
	broken := map[string]bool{}
	for _, p := range built {
		broken[p.ImportPath] = p.Incomplete && (hasC[p.ImportPath] || slices.ContainsFunc(p.Deps, func(d string) bool { return hasC[d] }))
	}
	needsC := map[string]bool{}
	for _, p := range built {
		if p.Module == nil || !p.Module.Main {
			continue
		}
		name := cmp.Or(p.ForTest, strings.TrimSuffix(p.ImportPath, ".test"))
		needsC[name] = needsC[name] || broken[p.ImportPath] || slices.ContainsFunc(p.Deps, func(d string) bool { return broken[d] })
	}
	for _, name := range slices.Sorted(maps.Keys(needsC)) {
		if needsC[name] {
			with = append(with, name)
		} else {
			without = append(without, name)
		}
	}
	return without, with, nil
}

// list asks the Go command about all packages here and what they and their tests
// are built from.
func list(env string, args ...string) (all []listed, err error) {
	cmd := exec.Command("go", append(append([]string{"list", "-e", "-deps", "-test"}, args...), "./...")...)
	cmd.Env = append(os.Environ(), env)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
}
