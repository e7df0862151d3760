package llama

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// memoryFile is a file of no file system, with a path to open it by: a process
// behind the fence writes no others.
type memoryFile struct {
	*os.File
	path string
}

func inMemory(content []byte) (*memoryFile, error) {
	fd, err := unix.MemfdCreate("shoal", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memory")
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, err
	}
	return &memoryFile{f, fmt.Sprintf("/proc/self/fd/%d", fd)}, nil
}
