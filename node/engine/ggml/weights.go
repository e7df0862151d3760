package ggml

import (
	"context"
	"os"
	"reflect"
	"unsafe"

	fsggml "github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/ml"
)

// loadWeights gives a backend's tensors what the file has for them. Where the processor
// alone computes they lie in the file's own pages, mapped read-only, so that they take
// no memory beside the page cache; the buffers that the library has laid out for them
// are never touched, and take none either. Elsewhere the library copies them.
//
// unmap, which may be nil, is for when the backend has been closed. bytes is what all
// mapped weights take together; 0 if they were copied.
func loadWeights(ctx context.Context, b ml.Backend, path string) (unmap func(), bytes uint64, err error) {
	if len(b.BackendMemory().GPUs) == 0 {
		if unmap, bytes = mapWeights(b, path); unmap != nil {
			return unmap, bytes, nil
		}
	}
	return nil, 0, b.Load(ctx, nil)
}

// mapWeights maps the file and points all tensors into it; nil if that is not possible:
// the system cannot, or the library would convert a tensor while it copies.
func mapWeights(b ml.Backend, path string) (unmap func(), bytes uint64) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0
	}
	defer f.Close()
	meta, err := fsggml.Decode(f, -1)
	if err != nil {
		return nil, 0
	}
	targets, ok := loadTargets(b)
	if !ok {
		return nil, 0
	}
	data, unmap, err := mapFile(f)
	if err != nil {
		return nil, 0
	}
	type place struct {
		tensor tensor
		at     unsafe.Pointer
	}
	var places []place
	for _, t := range meta.Tensors().Items() {
		begin, size := meta.Tensors().Offset+t.Offset, t.Size()
		if size == 0 || begin > uint64(len(data)) || size > uint64(len(data))-begin || begin%alignment != 0 {
			unmap()
			return nil, 0
		}
		names := targets[t.Name]
		if len(names) == 0 {
			names = []string{t.Name}
		}
		for _, name := range names {
			to, ok := tensorStruct(b.Get(name))
			if !ok || to.kind() != t.Kind { // the latter: the library converts it
				unmap()
				return nil, 0
			}
			places = append(places, place{to, unsafe.Pointer(&data[begin])})
		}
		bytes += size
	}
	for _, p := range places {
		p.tensor.setData(p.at)
	}
	return unmap, bytes
}

// alignment is that of tensors' data on which ggml's kernels rely, in bytes.
const alignment = 32

// loadTargets finds, by a tensor's name in the file, the names under which the library
// has it: one that is used twice has two.
func loadTargets(b ml.Backend) (map[string][]string, bool) {
	v := reflect.ValueOf(b)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil, false
	}
	field := v.Elem().FieldByName("tensorLoadTargets")
	if !field.IsValid() || field.Type() != reflect.TypeFor[map[string][]string]() {
		return nil, false
	}
	out := map[string][]string{}
	for it := field.MapRange(); it.Next(); {
		name := it.Key().String()
		for i := range it.Value().Len() {
			target := it.Value().Index(i).String()
			if target == "" {
				target = name
			}
			out[name] = append(out[name], target)
		}
	}
	return out, true
}

// tensor is ggml's own struct of a tensor, which the library keeps to itself, with the
// places of its fields as the C compiler laid them out.
type tensor struct {
	at                   unsafe.Pointer
	ofKind, buffer, data uintptr
}

// tensorStruct finds the struct of a tensor; false if it is not there.
func tensorStruct(t ml.Tensor) (tensor, bool) {
	at := tensorOf(t)
	if at == nil {
		return tensor{}, false
	}
	of := reflect.TypeOf(t).Elem()
	field, _ := of.FieldByName("t")
	c := field.Type.Elem()
	if c.Kind() != reflect.Struct {
		return tensor{}, false
	}
	kind, hasKind := c.FieldByName("_type")
	buffer, hasBuffer := c.FieldByName("buffer")
	data, hasData := c.FieldByName("data")
	if !hasKind || !hasBuffer || !hasData || kind.Type.Size() != 4 || data.Type.Kind() != reflect.UnsafePointer {
		return tensor{}, false
	}
	return tensor{at, kind.Offset, buffer.Offset, data.Offset}, true
}

func (t tensor) kind() uint32                { return *(*uint32)(unsafe.Add(t.at, t.ofKind)) }
func (t tensor) getBuffer() unsafe.Pointer   { return *(*unsafe.Pointer)(unsafe.Add(t.at, t.buffer)) }
func (t tensor) getData() unsafe.Pointer     { return *(*unsafe.Pointer)(unsafe.Add(t.at, t.data)) }
func (t tensor) setData(data unsafe.Pointer) { *(*unsafe.Pointer)(unsafe.Add(t.at, t.data)) = data }
