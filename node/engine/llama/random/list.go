package random

/*
#cgo linux LDFLAGS: -ldl
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"unsafe"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// opened is the folder whose library this process has opened.
var opened struct {
	sync.Mutex
	dir string
}

func open(dir string) error {
	opened.Lock()
	defer opened.Unlock()
	if opened.dir == dir {
		return nil
	}
	var args []*C.char
	defer func() {
		for _, a := range args {
			C.free(unsafe.Pointer(a))
		}
	}()
	args = append(args, C.CString(dir))
	for _, name := range []string{"libggml-base*", "libggml.*", "libllama.*"} {
		found, err := filepath.Glob(filepath.Join(dir, name))
		if err != nil || len(found) == 0 {
			return fmt.Errorf("no %s in %s", name, dir)
		}
		args = append(args, C.CString(found[0]))
	}
	if why := C.random_open(args[0], args[1], args[2], args[3]); why != nil {
		return fmt.Errorf("opening %s: %s", dir, C.GoString(why))
	}
	opened.dir = dir
	return nil
}

// counts matches the library's complaint about how many tensors the metadata name.
var counts = regexp.MustCompile(`expected (\d+), got (\d+)`)

// tensors returns those that the library creates for a model with this header, in the
// order in which it does. It creates those that a model of the architecture must have,
// and those that the header names; and it wants the header to name as many, whatever
// they are called.
func tensors(lib string, h gguf.Header, with []string) ([]gguf.Tensor, error) {
	if err := open(lib); err != nil {
		return nil, err
	}
	for range 2 {
		list, err := create(h, with)
		if err == nil {
			return list, nil
		}
		m := counts.FindStringSubmatch(err.Error())
		if m == nil {
			return nil, err
		}
		expected, _ := strconv.Atoi(m[1])
		got, _ := strconv.Atoi(m[2])
		if got < expected {
			return nil, err
		}
		with = slices.Clone(with)
		for i := range got - expected {
			with = append(with, fmt.Sprintf("filler.%d", i))
		}
	}
	return nil, fmt.Errorf("the library does not say how many tensors it wants")
}

// create has the library create the tensors of a model whose header names some.
func create(h gguf.Header, names []string) ([]gguf.Tensor, error) {
	for i, name := range names {
		h.Tensors = append(h.Tensors, gguf.Tensor{Name: name, Shape: []uint64{1}, Offset: uint64(32 * i)})
	}
	raw, err := h.Append(nil)
	if err != nil {
		return nil, err
	}
	file, err := os.CreateTemp("", "*.gguf")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	if _, err := file.Write(pad(raw, 32)); err != nil {
		return nil, err
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	path := C.CString(file.Name())
	defer C.free(unsafe.Pointer(path))
	out := (*C.random_list)(C.calloc(1, C.sizeof_random_list))
	defer C.free(unsafe.Pointer(out))
	C.random_tensors(path, out)
	if !out.ok {
		return nil, fmt.Errorf("libllama: %s", C.GoString(&out.error[0]))
	}
	var list []gguf.Tensor
	seen := map[string]bool{}
	for i := range int(out.n) {
		x := &out.tensors[i]
		t := gguf.Tensor{Name: C.GoString(&x.name[0]), Type: gguf.Type(x._type)}
		for _, n := range x.shape {
			t.Shape = append(t.Shape, uint64(n))
		}
		for len(t.Shape) > 1 && t.Shape[len(t.Shape)-1] == 1 {
			t.Shape = t.Shape[:len(t.Shape)-1]
		}
		if !seen[t.Name] { // it may create two of one
			seen[t.Name] = true
			list = append(list, t)
		}
	}
	return list, nil
}

// Answer has the library compute a whole model by itself. It returns the n most likely
// tokens after a prompt.
func Answer(lib, path string, prompt []int32, n int) ([]int32, error) {
	return answer(lib, path, prompt, false, n)
}

// AnswerEveryRow is Answer with the library asked for what follows every token of the
// prompt, for architectures of which it confuses the rows where it is asked for the last.
func AnswerEveryRow(lib, path string, prompt []int32, n int) ([]int32, error) {
	return answer(lib, path, prompt, true, n)
}

func answer(lib, path string, prompt []int32, every bool, n int) ([]int32, error) {
	if err := open(lib); err != nil {
		return nil, err
	}
	file := C.CString(path)
	defer C.free(unsafe.Pointer(file))
	out := make([]int32, n)
	if !C.random_answer(file, (*C.int32_t)(&prompt[0]), C.int(len(prompt)), C.bool(every), (*C.int32_t)(&out[0]), C.int(n)) {
		return nil, fmt.Errorf("libllama does not compute %s", filepath.Base(path))
	}
	return out, nil
}
