package ggml

import (
	"reflect"
	"unsafe"

	"github.com/ollama/ollama/ml"

	"github.com/shoalnet/shoal/node/engine/tune"
)

// newTuner chooses the number of threads of a back end's processor.
func newTuner(b ml.Backend, most int) *tune.Threads {
	cpu := cpuBackend(b)
	if cpu == nil {
		return tune.New(most, nil)
	}
	return tune.New(most, func(n int) { setThreads(cpu, n) })
}

// cpuBackend finds ggml's handle of the CPU backend, which the library keeps
// to itself: the last of the scheduler's backends.
func cpuBackend(b ml.Backend) unsafe.Pointer {
	v := reflect.ValueOf(b)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil
	}
	list := v.Elem().FieldByName("schedBackends")
	if !list.IsValid() || list.Kind() != reflect.Slice || list.Len() == 0 {
		return nil
	}
	last := list.Index(list.Len() - 1)
	if last.Kind() != reflect.Pointer {
		return nil
	}
	return last.UnsafePointer()
}
