package llama

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Library is where a copy of llama.cpp's library lies. It is not opened yet.
type Library struct {
	Dir      string // folder of libllama
	Llama    string // the file itself
	Ggml     string // libggml beside it; "": the system finds it
	Base     string // libggml-base likewise
	Backends string // folder of what computes on the machine's devices
	Origin   string // where it was found, in words
}

// Place is a folder that was looked at.
type Place struct {
	Dir    string
	Origin string // what named it
	Lacks  string // why it was not taken; "": it was
}

// Variable names, in the environment, the folder of the library.
const Variable = "SHOAL_LIBLLAMA"

// Find looks for the library without opening it: in the folder that named gives, and
// there alone; else where Variable says, and there alone; else beside this program
// and in its lib, in the extra folders, and where the system and Homebrew, conda and
// distributions keep libraries. It returns what it found, nil if nothing, and every
// place that it looked at, in this order.
func Find(named string, extra ...string) (*Library, []Place) {
	var looked []Place
	for _, p := range places(named, extra) {
		if slices.ContainsFunc(looked, func(l Place) bool { return l.Dir == p.Dir }) {
			continue
		}
		lib, lacks := libraryIn(p.Dir)
		looked = append(looked, Place{p.Dir, p.Origin, lacks})
		if lib != nil {
			lib.Origin = p.Origin
			return lib, looked
		}
	}
	return nil, looked
}

// places are the folders to look at, in order.
func places(named string, extra []string) []Place {
	if named != "" {
		return []Place{{Dir: named, Origin: "named"}}
	}
	if dir := os.Getenv(Variable); dir != "" {
		return []Place{{Dir: dir, Origin: Variable}}
	}
	var out []Place
	if exe, err := os.Executable(); err == nil {
		if path, err := filepath.EvalSymlinks(exe); err == nil {
			exe = path
		}
		dir := filepath.Dir(exe)
		for _, sub := range []string{".", "lib", filepath.Join("..", "lib", "shoal")} {
			out = append(out, Place{Dir: filepath.Join(dir, sub), Origin: "beside the program"})
		}
	}
	for _, dir := range extra {
		out = append(out, Place{Dir: dir, Origin: "installed"})
	}
	if prefix := os.Getenv("CONDA_PREFIX"); prefix != "" {
		out = append(out, Place{Dir: filepath.Join(prefix, "lib"), Origin: "conda"}, Place{Dir: filepath.Join(prefix, "Library", "bin"), Origin: "conda"})
	}
	for _, dir := range systemDirs() {
		out = append(out, Place{Dir: dir, Origin: "system"})
	}
	return out
}

// systemDirs are where the system's libraries are.
func systemDirs() []string {
	var out []string
	switch runtime.GOOS {
	case "linux":
		out = filepath.SplitList(os.Getenv("LD_LIBRARY_PATH"))
		triple := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
		for _, dir := range []string{"/usr/local/lib", "/usr/lib", "/usr/lib64", "/home/linuxbrew/.linuxbrew/lib"} {
			if triple != "" {
				out = append(out, filepath.Join(dir, triple), filepath.Join(dir, triple, "llama.cpp"))
			}
			out = append(out, dir, filepath.Join(dir, "llama.cpp"))
		}
	case "darwin":
		out = []string{"/opt/homebrew/lib", "/usr/local/lib", "/opt/local/lib"}
	case "windows":
		out = filepath.SplitList(os.Getenv("PATH"))
	}
	return slices.DeleteFunc(out, func(dir string) bool { return !filepath.IsAbs(dir) })
}

// libraryIn looks for the library in a folder.
func libraryIn(dir string) (lib *Library, lacks string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, "there is no such folder"
		}
		return nil, err.Error()
	}
	lib = &Library{Dir: dir, Backends: dir}
	for _, e := range entries {
		switch path := filepath.Join(dir, e.Name()); stem(e.Name()) {
		case "llama":
			lib.Llama = shorter(lib.Llama, path)
		case "ggml":
			lib.Ggml = shorter(lib.Ggml, path)
		case "ggml-base":
			lib.Base = shorter(lib.Base, path)
		}
	}
	if lib.Llama == "" {
		return nil, "no libllama"
	}
	for _, sub := range []string{"ggml", "llama.cpp"} { // where distributions keep back ends apart
		if found, _ := filepath.Glob(filepath.Join(dir, sub, "*ggml-cpu*")); len(found) > 0 {
			lib.Backends = filepath.Join(dir, sub)
		}
	}
	return lib, ""
}

// shorter prefers libllama.so to libllama.so.0: the latter is the same file.
func shorter(a, b string) string {
	if a == "" || len(b) < len(a) {
		return b
	}
	return a
}

// stem is the name of a shared library without what systems put around it:
// libllama.v0.5.0.so, libllama.so.0, libllama.dylib and llama.dll are llama. Other
// files have none.
func stem(file string) string {
	name, rest, ok := strings.Cut(file, ".")
	if !ok || !slices.ContainsFunc(strings.Split(rest, "."), func(part string) bool { return part == "so" || part == "dylib" || part == "dll" }) {
		return ""
	}
	return strings.TrimPrefix(name, "lib")
}
