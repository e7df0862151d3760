package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/cmd/shoal/install"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/llama"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/serve"
)

// The choice of an engine, for the commands that start nodes.

const (
	engineUsage  = "what computes: auto, ggml (built in) or llama (llama.cpp's library); auto: ggml where --exact asks for it or it is as fast, llama where ggml lacks the model or is slower, as measured"
	exactUsage   = "results are the same to the last bit whether a session runs alone, beside others, or again after a repair. With ggml on Linux and x86 they always are; elsewhere, and with llama, this costs speed"
	libraryUsage = "folder `DIR` of llama.cpp's library (default: SHOAL_LIBLLAMA, beside this program, what `shoal engine install` has fetched, the system's)"
)

// engineFlags are on commands whose flags are not a node's settings. use is the default.
func engineFlags(use string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "engine", Value: use, EnvVars: []string{"SHOAL_ENGINE"}, Usage: engineUsage},
		&cli.StringFlag{Name: "llama", EnvVars: []string{"SHOAL_LLAMA"}, Usage: libraryUsage},
	}
}

// enginesOf reads the choice of an engine. dir is the home.
func enginesOf(c *cli.Context, dir string) serve.Engines {
	named := c.String("llama")
	return serve.Engines{Use: c.String("engine"), Library: func() (serve.Library, error) { return findLibrary(named, dir) }}
}

// nodeArgs are the arguments for nodes that have homes of their own, and are to choose
// their engine as this command's flags say.
func nodeArgs(c *cli.Context) ([]string, error) {
	e := enginesOf(c, c.String("home"))
	if err := e.Check(); err != nil {
		return nil, usageError{"--engine " + err.Error()}
	}
	args := []string{"--engine", e.Use}
	if e.Use == engine.BuiltIn {
		return args, nil
	}
	lib, err := e.Library()
	switch {
	case err == nil:
		args = append(args, "--llama", lib.Dir)
	case e.Use == engine.Llama:
		return nil, remedy.For(fmt.Errorf("llama.cpp's library is demanded, and %w", err), remedy.InstallEngine)
	}
	return args, nil
}

// findLibrary looks for llama.cpp's library: in the folder named and nowhere else, or in
// all places. The error says where it is not.
func findLibrary(named, dir string) (serve.Library, error) {
	lib, looked := llama.Find(named, installedEngines(dir)...)
	if lib == nil {
		if named != "" {
			return serve.Library{}, fmt.Errorf("%s has none: %s", named, looked[0].Lacks)
		}
		return serve.Library{}, fmt.Errorf("it is not on this machine")
	}
	id := lib.Llama
	if info, err := os.Stat(lib.Llama); err == nil {
		id = fmt.Sprintf("%s %d %d", lib.Llama, info.Size(), info.ModTime().Unix())
	}
	return serve.Library{Dir: lib.Dir, ID: id}, nil
}

// installedEngines are the folders of what `shoal engine install` has put into a home,
// the newest first.
func installedEngines(dir string) []string { return install.Dirs(home.Home(dir).Engines()) }
