package doctor

import (
	"cmp"
	"slices"
	"strings"
)

// Library is the copy of llama.cpp's library that nodes of the home open.
type Library struct {
	Dir      string // "": there is none
	Version  string
	Why      string   // why it cannot be used; "": it can
	Variant  string   // its back end for this processor; "": not known
	Backends []string // cpu, cuda, ...
}

// library reports on llama.cpp's library: whether models here need it, whether it works,
// and whether it knows the GPUs.
func library(f *Facts) []Finding {
	l := &f.Library
	var out []Finding
	install := f.shoal("engine install")
	if l.Dir != "" && l.Why != "" {
		fix := install
		if f.Config.LlamaDir != "" { // an installed one would not be looked for
			fix = f.shoal("engine ls")
		}
		out = append(out, warn(fix, "llama.cpp's library in %s cannot be used, so the built-in engine computes: %s", l.Dir, l.Why)...)
	}
	if l.Dir == "" || l.Why != "" || f.Config.Engine == "ggml" {
		for _, m := range f.Models {
			if m.Foreign == "" {
				continue
			}
			what, fix := "llama.cpp's library, which is not here", install
			switch {
			case f.Config.Engine == "ggml":
				what, fix = "llama.cpp's library, which the setting engine excludes", f.set("engine", "auto")
			case l.Dir != "":
				what = "llama.cpp's library"
			}
			find := warn
			if m.Wanted {
				find = bad
			}
			out = append(out, find(fix, "%s can be kept and passed on, but to compute it takes %s: %s", m.Name, what, m.Foreign)...)
		}
	}
	if l.Dir != "" && l.Why == "" {
		for _, g := range f.Machine.GPUs {
			if backend := strings.Replace(g.Backend, "hip", "vulkan", 1); g.Driver == "" && g.Denied == "" && !slices.Contains(l.Backends, g.Backend) && !slices.Contains(l.Backends, backend) {
				out = append(out, warn(f.shoal("engine install", "--accel", backend), "%s is here, but the library in %s computes on the processor alone", g.Name, l.Dir)...)
			}
		}
	}
	switch {
	case len(out) > 0:
		return out
	case l.Dir == "" && len(f.Models) > 0:
		return ok("llama.cpp's is not here; the built-in engine computes all models of this home")
	case l.Dir == "":
		return ok("llama.cpp's is not here; the built-in engine computes")
	}
	return ok("llama.cpp %s in %s, for %s", l.Version, l.Dir, cmp.Or(l.Variant, strings.Join(l.Backends, ", ")))
}
