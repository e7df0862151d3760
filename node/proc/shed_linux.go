package proc

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Shed gives up this process's view of the pages of its program and libraries. What
// runs on is mapped again when it is next touched, mostly without reading a disk; what a
// process needs only to start, which is most of a large program, no longer counts as its
// memory. Threads may run meanwhile.
func Shed() {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	var one mapping
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if next, ok := parseMapping(lines.Text()); ok {
			one.shed()
			one = next
			continue
		}
		name, rest, _ := strings.Cut(lines.Text(), ":")
		if (name == "Anonymous" || name == "Swap") && strings.TrimSpace(rest) != "0 kB" {
			one.own = true
		}
	}
	one.shed()
}

// ShedFile gives up this process's view of the pages of a file that it has mapped only to
// read, as Shed does: what is touched again is mapped again.
func ShedFile(path string) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if m, ok := parseMapping(lines.Text()); ok && m.path == path && strings.HasPrefix(m.access, "r--") {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.begin, m.end-m.begin, unix.MADV_DONTNEED)
		}
	}
}

// mapping is an entry of /proc/self/smaps.
type mapping struct {
	begin, end uintptr
	access     string // such as r-xp
	path       string
	own        bool // it has pages that are not the file's any more
}

// parseMapping parses the first line of an entry; false if it is another line.
func parseMapping(line string) (m mapping, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return m, false
	}
	if n, err := fmt.Sscanf(fields[0], "%x-%x", &m.begin, &m.end); n != 2 || err != nil || m.end < m.begin {
		return m, false
	}
	m.access = fields[1]
	if len(fields) > 5 { // a path may have spaces
		_, m.path, _ = strings.Cut(line, " "+fields[4]+" ")
		m.path = strings.TrimLeft(m.path, " ")
	}
	return m, true
}

// shed gives up the pages of a mapping that is the unchanged part of a program or
// library: read-only, and without pages of this process's own, which a linker makes
// where it relocates.
func (m mapping) shed() {
	if m.own || !strings.HasPrefix(m.path, "/") || m.access != "r-xp" && m.access != "r--p" {
		return
	}
	// Some file systems cache programs in pieces of 2 MiB, which would come back whole at
	// the first touch.
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.begin, m.end-m.begin, unix.MADV_NOHUGEPAGE)
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.begin, m.end-m.begin, unix.MADV_DONTNEED)
}
