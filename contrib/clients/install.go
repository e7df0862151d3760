package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// languages says how a client is installed and its program run. Both happen in the
// client's directory, which has the files of the language's folder.
var languages = map[string]struct {
	folder  string
	install func(c client) [][]string // commands
	run     func(c client) []string
}{
	"Python": {
		folder: "python",
		install: func(c client) [][]string {
			pip := []string{"venv/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"}
			for _, p := range c.packages {
				pip = append(pip, strings.Replace(p, "@", "==", 1))
			}
			return [][]string{{"python3", "-m", "venv", "venv"}, pip}
		},
		run: func(c client) []string { return []string{"venv/bin/python", c.program} },
	},
	"JavaScript": {
		folder: "javascript",
		install: func(c client) [][]string {
			return [][]string{append([]string{"npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", "."}, c.packages...)}
		},
		run: func(c client) []string { return []string{"node", c.program} },
	},
	"Go": {
		folder: "_go",
		install: func(c client) [][]string {
			return [][]string{
				{"sh", "-c", "rm -f go.mod go.sum && go mod init client"},
				append([]string{"go", "get"}, c.packages...),
				{"env", "CGO_ENABLED=0", "go", "build", "-o", "client", c.program, "cases.go"},
			}
		},
		run: func(client) []string { return []string{"./client"} },
	},
	"Rust": {
		folder: "rust",
		install: func(c client) [][]string {
			return [][]string{{"sh", "-c", cargo(c)}, {"cargo", "build", "--quiet", "--release"}}
		},
		run: func(client) []string { return []string{"target/release/client"} },
	},
	"Java": {
		folder: "java",
		install: func(c client) [][]string {
			return [][]string{
				{"sh", "-c", "cat > pom.xml <<'END'\n" + pom(c) + "END"},
				{"mvn", "--batch-mode", "--quiet", "dependency:copy-dependencies", "-DoutputDirectory=lib"},
				{"javac", "-d", "classes", "-cp", "lib/*", c.program, "Cases.java"},
			}
		},
		run: func(c client) []string {
			return []string{"java", "-cp", "classes:lib/*", strings.TrimSuffix(c.program, ".java")}
		},
	},
}

// cargo returns a script that writes a manifest. Versions are exact.
func cargo(c client) string {
	var b strings.Builder
	b.WriteString("cat > Cargo.toml <<'END'\n[package]\nname = \"client\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[[bin]]\nname = \"client\"\npath = \"" + c.program + "\"\n[dependencies]\n")
	for _, p := range c.packages {
		name, version, _ := cutLast(p, "@")
		name, features, _ := strings.Cut(name, "/")
		fmt.Fprintf(&b, "%s = { version = \"=%s\", features = [%s] }\n", name, version, quoted(features))
	}
	return b.String() + "END"
}

func quoted(list string) string {
	if list == "" {
		return ""
	}
	return `"` + strings.ReplaceAll(list, ",", `", "`) + `"`
}

func pom(c client) string {
	var b strings.Builder
	b.WriteString("<project><modelVersion>4.0.0</modelVersion><groupId>shoal</groupId><artifactId>client</artifactId><version>0</version><dependencies>\n")
	for _, p := range c.packages {
		name, version, _ := cutLast(p, "@")
		group, artifact, _ := strings.Cut(name, ":")
		fmt.Fprintf(&b, "<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>\n", group, artifact, version)
	}
	return b.String() + "</dependencies></project>\n"
}

// install puts a client into dir, unless it is there: a stamp says what of.
func (c client) install(ctx context.Context, source, dir string) error {
	language := c.installer()
	l, ok := languages[language]
	if !ok {
		return fmt.Errorf("no way to install what is written in %s", language)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	hash := sha256.New()
	fmt.Fprintln(hash, l.install(c))
	entries, err := os.ReadDir(filepath.Join(source, l.folder))
	if err != nil {
		return err
	}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(source, l.folder, e.Name()))
		if err != nil {
			return err
		}
		cases := strings.EqualFold(strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())), "cases")
		if e.Name() != c.program && !cases {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), raw, 0o600); err != nil {
			return err
		}
		if language != "Python" && language != "JavaScript" { // these are not compiled
			hash.Write(raw)
		}
	}
	stamp, sum := filepath.Join(dir, "installed"), fmt.Sprintf("%x", hash.Sum(nil))
	if was, err := os.ReadFile(stamp); err == nil && string(was) == sum {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, argv := range l.install(c) {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
		}
	}
	return os.WriteFile(stamp, []byte(sum), 0o600)
}
