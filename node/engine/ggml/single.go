package ggml

// #cgo linux,amd64 LDFLAGS: -Wl,--wrap=llamafile_sgemm
import "C"

import "runtime"

// companyRows is how many rows a pass needs at least so that its results are those of
// any larger one. ggml multiplies some weight types by one routine in a pass of few rows
// and by another in larger ones, which differ in the last bits. On Linux with an x86
// processor single_linux_amd64.c stands in for the first of them, and is as fast.
func companyRows() int {
	switch {
	case runtime.GOARCH == "amd64" && runtime.GOOS == "linux":
		return 1
	case runtime.GOARCH == "amd64":
		return 2
	}
	return 8
}
