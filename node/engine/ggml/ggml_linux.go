package ggml

/*
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <malloc.h>

// All are in the library's objects, which the final link brings together with
// this one. They are weak because cgo links each package alone first.
extern void *ggml_get_data(const void *tensor) __attribute__((weak));
extern size_t ggml_nbytes(const void *tensor) __attribute__((weak));
extern void *ggml_backend_buffer_get_base(void *buffer) __attribute__((weak));
extern size_t ggml_backend_buffer_get_size(void *buffer) __attribute__((weak));
extern int ggml_backend_buffer_get_usage(void *buffer) __attribute__((weak));
extern int malloc_trim(size_t pad) __attribute__((weak)); // not in every C library
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

// Whole pages between from and to, of each of rows that are stride bytes apart.
static void shoal_give_back(char *at, size_t rows, size_t stride, size_t from, size_t to) {
	uintptr_t page = sysconf(_SC_PAGESIZE);
	if (from == 0 && to == stride) { // the rows join
		to *= rows;
		rows = 1;
	}
	for (size_t i = 0; i < rows; i++, at += stride) {
		uintptr_t begin = ((uintptr_t)at + from + page - 1) / page * page, end = ((uintptr_t)at + to) / page * page;
		if (begin < end)
			madvise((void *)begin, end - begin, MADV_DONTNEED);
	}
}

// What a pass wrote into a buffer for computing is of no use after it.
static void shoal_give_back_buffer(void *buffer) {
	const int compute = 2; // GGML_BACKEND_BUFFER_USAGE_COMPUTE
	if (buffer && ggml_backend_buffer_get_base && ggml_backend_buffer_get_size && ggml_backend_buffer_get_usage && ggml_backend_buffer_get_usage(buffer) == compute)
		shoal_give_back(ggml_backend_buffer_get_base(buffer), 1, 0, 0, ggml_backend_buffer_get_size(buffer));
}

static void shoal_trim(void) {
	if (malloc_trim)
		malloc_trim(0);
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

// giveBack returns the memory of bytes [from, to) of each of rows that are stride bytes
// apart, as far as it is in pages of their own. They read as zeros from then on.
func giveBack(at unsafe.Pointer, rows, stride, from, to int) {
	C.shoal_give_back((*C.char)(at), C.size_t(rows), C.size_t(stride), C.size_t(from), C.size_t(to))
}

// giveBackBuffer returns the memory of a buffer of the library's, if it is one for
// computing. Its contents are lost.
func giveBackBuffer(buffer unsafe.Pointer) { C.shoal_give_back_buffer(buffer) }

// trimHeap returns what the C library's heap keeps for later.
func trimHeap() { C.shoal_trim() }
