package llama

/*
#cgo linux LDFLAGS: -ldl -lm
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"unsafe"

	"github.com/shoalnet/shoal/node/engine"
)

// opened is the library in this process: there is one, or none.
var opened struct {
	sync.Mutex
	lib     *Library
	version *version
	err     error
}

// open opens a library once per process, and sees that it is one that is known and
// computes right. Errors wrap engine.ErrUnsupported.
func open(lib *Library) (*version, error) {
	opened.Lock()
	defer opened.Unlock()
	if opened.lib == nil {
		opened.lib = lib
		if opened.version, opened.err = load(lib); opened.err != nil {
			opened.err = &unfit{lib, opened.err}
		}
	}
	if opened.lib.Llama != lib.Llama {
		return nil, fmt.Errorf("%w: this process has opened another library, that in %s", engine.ErrUnsupported, opened.lib.Dir)
	}
	return opened.version, opened.err
}

// unfit is why a library is not used. It wraps engine.ErrUnsupported, of whose words, which
// are about models, it has none.
type unfit struct {
	lib *Library
	why error
}

func (u *unfit) Error() string {
	return fmt.Sprintf("the library in %s (%s): %s", u.lib.Dir, u.lib.Origin, u.why)
}
func (u *unfit) Unwrap() []error { return []error{engine.ErrUnsupported, u.why} }

func load(lib *Library) (*version, error) {
	for _, file := range []string{lib.Base, lib.Ggml, lib.Llama} {
		if err := complete(file); err != nil {
			return nil, err
		}
	}
	base, ggml, llama := C.CString(lib.Base), C.CString(lib.Ggml), C.CString(lib.Llama)
	defer C.free(unsafe.Pointer(base))
	defer C.free(unsafe.Pointer(ggml))
	defer C.free(unsafe.Pointer(llama))
	if failed := C.sl_open(base, ggml, llama); failed != nil {
		return nil, errors.New(C.GoString(failed))
	}
	v, err := versionOf(C.GoString(C.sl_version()), C.GoString(C.sl_ggml_version()), filepath.Base(lib.Llama))
	if err != nil {
		return nil, err
	}
	if name := C.sl_lacks(); name != nil {
		return nil, fmt.Errorf("version %s without its function %s", v.name, C.GoString(name))
	}
	if err := v.check(); err != nil {
		return nil, err
	}
	C.sl_frugal()
	C.sl_log_to_go()
	dir := C.CString(lib.Backends)
	defer C.free(unsafe.Pointer(dir))
	C.sl_backends(dir)
	if C.sl_device_count() == 0 {
		return nil, fmt.Errorf("no back end in %s computes on this machine's processor", lib.Backends)
	}
	return v, v.compute()
}

// params are a struct that passes by value.
type params C.sl_params

func (p *params) setInt(at int, v int) { binary.NativeEndian.PutUint32(p.bytesAt(at, 4), uint32(v)) }
func (p *params) int(at int) int       { return int(int32(binary.NativeEndian.Uint32(p.bytesAt(at, 4)))) }

func (p *params) setBool(at int, v bool) {
	p.bytesAt(at, 1)[0] = map[bool]byte{true: 1}[v]
}
func (p *params) bool(at int) bool { return p.bytesAt(at, 1)[0] == 1 }

func (p *params) setPointer(at int, v unsafe.Pointer) {
	binary.NativeEndian.PutUint64(p.bytesAt(at, 8), uint64(uintptr(v)))
}

func (p *params) bytesAt(at, n int) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), C.SL_PARAMS)[at:][:n]
}

func (p *params) c() *C.sl_params { return (*C.sl_params)(p) }

// check compares the defaults of parameters, and their sizes where they can be seen,
// with what the version's layout says.
func (v *version) check() error {
	var m, c params
	sizes := [2]C.int{C.sl_model_defaults(m.c()), C.sl_context_defaults(c.c())}
	wrong := func(what string, got, want any) error {
		return fmt.Errorf("version %s with parameters that are not its own: %s is %v, not %v", v.name, what, got, want)
	}
	for i, want := range []int{v.model.size, v.context.size} {
		if got := int(sizes[i]); got != 0 && got != want {
			return wrong([]string{"the size of a model's", "the size of a context's"}[i], got, want)
		}
	}
	for _, f := range []struct {
		what      string
		got, want any
	}{
		{"n_gpu_layers", m.int(v.model.gpuLayers), -1},
		{"split_mode", m.int(v.model.splitMode), 1},
		{"use_extra_bufts", m.bool(v.model.extraBuffers), true},
		{"n_ctx", c.int(v.context.cells), 512},
		{"n_batch", c.int(v.context.batch), 2048},
		{"n_ubatch", c.int(v.context.rows), 512},
		{"n_seq_max", c.int(v.context.seqs), 1},
		{"n_threads", c.int(v.context.threads), c.int(v.context.threadsMany)},
		{"pooling_type", c.int(v.context.pooling), -1},
		{"attention_type", c.int(v.context.attention), -1},
		{"flash_attn_type", c.int(v.context.flash), -1},
		{"type_k", c.int(v.context.keys), typeF16},
		{"type_v", c.int(v.context.values), typeF16},
		{"embeddings", c.bool(v.context.embeddings), false},
		{"offload_kqv", c.bool(v.context.offload), true},
		{"swa_full", c.bool(v.context.wholeWindow), true},
		{"kv_unified", c.bool(v.context.unified), false},
	} {
		if f.got != f.want {
			return wrong("the default of "+f.what, f.got, f.want)
		}
	}
	return nil
}

// Numbers of the library.
const (
	typeF32, typeF16, typeQ8 = 0, 1, 8 // of tensors

	flashOff, flashOn = 0, 1

	loadMapped = 1

	ropeMulti, ropeInterleaved = 8, 40 // rotations by positions in several dimensions

	poolingNone = 0

	deviceGPU, deviceShared = 1, 2 // the latter has the machine's own memory
)

// mapped makes a model's parameters: its file is mapped.
func (v *version) mapped() *params {
	var p params
	C.sl_model_defaults(p.c())
	if v.model.loadMode > 0 {
		p.setInt(v.model.loadMode, loadMapped)
	} else {
		p.setBool(v.model.mmap, true)
	}
	return &p
}
