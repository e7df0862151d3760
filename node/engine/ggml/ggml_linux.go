package ggml

/*
#include <stdbool.h>
#include <stddef.h>

// Both are in the library's objects, which the final link brings together with
// this one. They are weak because cgo links each package alone first.
extern bool ggml_backend_is_cpu(void *backend) __attribute__((weak));
extern void ggml_backend_cpu_set_n_threads(void *backend, int n) __attribute__((weak));

static bool shoal_set_threads(void *backend, int n) {
	if (!ggml_backend_is_cpu || !ggml_backend_cpu_set_n_threads || !ggml_backend_is_cpu(backend))
		return false;
	ggml_backend_cpu_set_n_threads(backend, n);
	return true;
}
*/
import "C"

import "unsafe"

// setThreads sets how many threads the CPU backend's next pass uses.
func setThreads(cpu unsafe.Pointer, n int) bool {
	return bool(C.shoal_set_threads(cpu, C.int(n)))
}
