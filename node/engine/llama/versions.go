package llama

import (
	"fmt"
	"strings"
)

// A version of the library whose structs' layout is known. Structs that are passed
// by value have no promise: a field is written only where this table says it is, and
// every version in it was run through the suite, as far as it goes.
type version struct {
	name    string // as llama_version reports it, without what follows a dash; or as the library's file is named
	ggml    string // as ggml_version reports it
	model   modelFields
	context contextFields
	whole   bool // it computes whole models only
}

// modelFields are offsets in llama_model_params, in bytes.
type modelFields struct {
	size                                                        int // up to the last field
	devices, gpuLayers, splitMode, loadMode, mmap, extraBuffers int // loadMode or mmap is 0: it has the other
}

// contextFields are offsets in llama_context_params, in bytes.
type contextFields struct {
	size                                             int
	cells, batch, rows, seqs, snapshots, outputs     int
	threads, threadsMany                             int
	pooling, attention, flash                        int
	eval, evalUser, keys, values                     int
	embeddings, offload, quiet, wholeWindow, unified int
}

var (
	// v0.4.0 and v0.5.0
	modelOfJuly = modelFields{size: 78, devices: 0, gpuLayers: 16, splitMode: 20, loadMode: 24, extraBuffers: 74}
	// b10361
	modelOfJune = modelFields{size: 70, devices: 0, gpuLayers: 16, splitMode: 20, loadMode: 24, extraBuffers: 66}
	// b10068
	modelOfMay = modelFields{size: 72, devices: 0, gpuLayers: 16, splitMode: 20, mmap: 65, extraBuffers: 69}

	contextOfJune = contextFields{
		size: 160, cells: 0, batch: 4, rows: 8, seqs: 12, snapshots: 16, outputs: 20, threads: 28, threadsMany: 32,
		pooling: 44, attention: 48, flash: 52, eval: 88, evalUser: 96, keys: 104, values: 108,
		embeddings: 128, offload: 129, quiet: 130, wholeWindow: 132, unified: 133,
	}
	contextOfMay = contextFields{
		size: 160, cells: 0, batch: 4, rows: 8, seqs: 12, snapshots: 16, outputs: 20, threads: 24, threadsMany: 28,
		pooling: 40, attention: 44, flash: 48, eval: 88, evalUser: 96, keys: 104, values: 108,
		embeddings: 128, offload: 129, quiet: 130, wholeWindow: 132, unified: 133,
	}
)

// Before 0.5.0 the library did not read which of gemma3's blocks have a window from the
// file, but counted, so that a span computed without a sign of it with other ones.
var versions = []version{
	{name: "0.5.0", ggml: "0.25.1", model: modelOfJuly, context: contextOfJune},
	{name: "0.4.0", ggml: "0.23.0", model: modelOfJuly, context: contextOfJune, whole: true},
	{name: "b10361", ggml: "0.19.0", model: modelOfJune, context: contextOfJune, whole: true},
	{name: "b10068", ggml: "0.17.0", model: modelOfMay, context: contextOfMay, whole: true},
}

// Known lists the versions of the library that this package opens.
func Known() []string {
	out := make([]string, len(versions))
	for i, v := range versions {
		out[i] = v.name
	}
	return out
}

// versionOf finds a version by what the library reports, or where it reports
// nothing, by its file's name.
func versionOf(reported, ggml, file string) (*version, error) {
	name, _, _ := strings.Cut(reported, "-")
	if name == "" {
		name = nameOfFile(file)
	}
	for i := range versions {
		if v := &versions[i]; v.name == name && v.ggml == ggml {
			return v, nil
		}
	}
	if name == "" {
		name = "of no name"
	}
	return nil, fmt.Errorf("version %s with ggml %s is not known; known are %s", name, ggml, strings.Join(Known(), ", "))
}

// nameOfFile is the version in a name such as libllama.b10361.so, or "".
func nameOfFile(file string) string {
	for _, part := range strings.Split(file, ".") {
		if len(part) > 1 && part[0] == 'b' && strings.Trim(part[1:], "0123456789") == "" {
			return part
		}
	}
	return ""
}
