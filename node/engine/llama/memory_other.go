//go:build !linux

package llama

import "os"

// memoryFile is a file that is gone when it is closed.
type memoryFile struct{ path string }

func inMemory(content []byte) (*memoryFile, error) {
	f, err := os.CreateTemp("", "shoal-*.gguf")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		_ = os.Remove(f.Name())
		return nil, err
	}
	return &memoryFile{f.Name()}, nil
}

// Close removes the file.
func (m *memoryFile) Close() error { return os.Remove(m.path) }
