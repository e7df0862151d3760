package ggml

/*
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// All are in the library's objects, which the final link brings together with
// this one. They are weak because cgo links each package alone first.
extern void *ggml_get_data(const void *tensor) __attribute__((weak));
extern size_t ggml_nbytes(const void *tensor) __attribute__((weak));
extern bool ggml_backend_is_cpu(void *backend) __attribute__((weak));
extern void ggml_backend_cpu_set_n_threads(void *backend, int n) __attribute__((weak));

static bool shoal_set_threads(void *backend, int n) {
	if (!ggml_backend_is_cpu || !ggml_backend_cpu_set_n_threads || !ggml_backend_is_cpu(backend))
		return false;
	ggml_backend_cpu_set_n_threads(backend, n);
	return true;
}

// Pages that are given back read as zeros when they are next touched.
static bool shoal_clear(void *tensor) {
	if (!tensor || !ggml_get_data || !ggml_nbytes)
		return false;
	char *begin = ggml_get_data(tensor), *end = begin + ggml_nbytes(tensor);
	uintptr_t page = sysconf(_SC_PAGESIZE);
	char *first = (char *)(((uintptr_t)begin + page - 1) / page * page), *last = (char *)((uintptr_t)end / page * page);
	if (!begin || first >= last || madvise(first, last - first, MADV_DONTNEED))
		return false;
	memset(begin, 0, first - begin);
	memset(last, 0, end - last);
	return true;
}
*/
import "C"

import "unsafe"

// setThreads sets how many threads the CPU backend's next pass uses.
func setThreads(cpu unsafe.Pointer, n int) bool {
	return bool(C.shoal_set_threads(cpu, C.int(n)))
}

// clearLazily makes a tensor in this machine's own memory all zeros, and takes none for
// what is never touched. It returns false if it could not.
func clearLazily(tensor unsafe.Pointer) bool { return bool(C.shoal_clear(tensor)) }
