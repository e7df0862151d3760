package llama

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// complete sees that a library's file has all that its header lists: the system maps
// a file that was cut short, and then ends the process that reads what is missing.
// "" is no file.
func complete(file string) error {
	if file == "" || runtime.GOOS != "linux" {
		return nil
	}
	name := filepath.Base(file)
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("%s is no library, or cut short: %w", name, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if end := p.Off + p.Filesz; end < p.Off || end > uint64(st.Size()) {
			return fmt.Errorf("%s is cut short: it has %d bytes, and lists %d", name, st.Size(), end)
		}
	}
	return nil
}
