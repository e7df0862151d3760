package llama

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/remedy"
)

// gpu is a device with the library's handle of it.
type gpu struct {
	engine.Device
	handle unsafe.Pointer
}

// gpus lists the devices beside the processor.
func gpus() (out []gpu) {
	for i := range int(C.sl_device_count()) {
		d := C.sl_device(C.int(i))
		if t := C.sl_device_type(d); t != deviceGPU && t != deviceShared {
			continue
		}
		var free, total C.size_t
		C.sl_device_memory(d, &free, &total)
		out = append(out, gpu{engine.Device{Name: C.GoString(C.sl_device_name(d)), Library: C.GoString(C.sl_device_library(d)), Memory: uint64(total), Free: uint64(free)}, d})
	}
	return out
}

// devices are those that the configuration wants: named ones, in that order, else
// all. list is the library's list of them, to be freed.
func (l *local) devices() (out []engine.Device, list unsafe.Pointer, err error) {
	found, names := gpus(), l.cfg.Devices
	switch {
	case slices.Equal(names, []string{engine.NoDevice}):
		found = nil
	case len(names) > 0:
		var named []gpu
		for _, name := range names {
			i := slices.IndexFunc(found, func(g gpu) bool { return strings.EqualFold(g.Name, name) })
			if i < 0 {
				return nil, nil, unknownDevice(name, found)
			}
			named = append(named, found[i])
		}
		found = named
	}
	list = C.calloc(C.size_t(len(found)+1), C.size_t(unsafe.Sizeof(list)))
	handles := unsafe.Slice((*unsafe.Pointer)(list), len(found)+1)
	for i, g := range found {
		handles[i] = g.handle
		out = append(out, g.Device)
	}
	return out, list, nil
}

func unknownDevice(name string, found []gpu) error {
	there := []string{engine.NoDevice}
	for _, g := range found {
		there = append(there, fmt.Sprintf("%s (%s)", g.Name, g.Library))
	}
	err := fmt.Errorf("%w: there is no GPU %q here; there are: %s", engine.ErrUnsupported, name, strings.Join(there, ", "))
	return remedy.For(err, remedy.ChooseDevice)
}
