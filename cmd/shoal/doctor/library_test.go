package doctor

import (
	"strings"
	"testing"
)

func TestLibrary(t *testing.T) {
	foreign := []Model{{Name: "plain"}, {Name: "new", Foreign: `architecture "qwen35"`}}
	wanted := []Model{{Name: "new", Foreign: `architecture "qwen35"`, Wanted: true}}
	works := Library{Dir: "/lib", Version: "0.5.0", Variant: "haswell", Backends: []string{"cpu"}}
	card := []GPU{{Name: "card", Backend: "cuda"}}
	for name, c := range map[string]struct {
		f         Facts
		state     State
		what, fix string
	}{
		"none, none needed":      {Facts{Models: foreign[:1]}, OK, "computes all models", ""},
		"none, one needed":       {Facts{Models: foreign}, Warn, "new can be kept", "shoal engine install --home /h"},
		"none, one to be served": {Facts{Models: wanted}, Bad, "which is not here", "shoal engine install --home /h"},
		"excluded":               {Facts{Models: wanted, Library: works, Config: Config{Engine: "ggml", File: "/h/config.toml"}}, Bad, "the setting engine excludes", `engine = "auto"`},
		"unknown":                {Facts{Library: Library{Dir: "/lib", Why: "version 7 is not known"}}, Warn, "version 7 is not known", "shoal engine install --home /h"},
		"unknown, and named":     {Facts{Library: Library{Dir: "/lib", Why: "version 7 is not known"}, Config: Config{LlamaDir: "/lib"}}, Warn, "version 7", "shoal engine ls --home /h"},
		"works":                  {Facts{Models: wanted, Library: works}, OK, "llama.cpp 0.5.0 in /lib, for haswell", ""},
		"without the card":       {Facts{Library: works, Machine: Machine{GPUs: card}}, Warn, "card is here", "shoal engine install --home /h --accel cuda"},
		"with the card":          {Facts{Library: Library{Dir: "/lib", Version: "0.5.0", Backends: []string{"cpu", "cuda"}}, Machine: Machine{GPUs: card}}, OK, "cpu, cuda", ""},
		"an AMD card has Vulkan": {Facts{Library: works, Machine: Machine{GPUs: []GPU{{Name: "card", Backend: "hip"}}}}, Warn, "card is here", "--accel vulkan"},
		"a card without driver":  {Facts{Library: works, Machine: Machine{GPUs: []GPU{{Name: "card", Backend: "cuda", Driver: "modprobe"}}}}, OK, "0.5.0", ""},
	} {
		c.f.Program, c.f.Home.Dir = "shoal", "/h"
		got := library(&c.f)
		if len(got) != 1 || got[0].State != c.state || !strings.Contains(got[0].What, c.what) || !strings.Contains(got[0].Fix, c.fix) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
