package doctor

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Process describes a process of this machine; the zero value is one that is not visible.
type Process struct {
	PID   int
	Name  string
	Shoal bool // a shoal node
}

// process looks up a process by its ID.
func process(pid int) Process {
	p := Process{PID: pid}
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	if raw, err := os.ReadFile(filepath.Join(dir, "comm")); err == nil {
		p.Name = strings.TrimSpace(string(raw))
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil {
		args := strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
		exe, _ := os.Readlink(filepath.Join(dir, "exe"))
		own, _ := os.Executable()
		p.Shoal = exe == own && len(args) > 1
		for _, a := range args[:min(1, len(args))] {
			p.Shoal = p.Shoal || filepath.Base(a) == "shoal"
		}
	}
	return p
}

// portOwner returns the process that uses a port, from Linux's /proc.
func portOwner(network string, port int) Process {
	for _, table := range []string{network, network + "6"} {
		f, err := os.Open("/proc/net/" + table)
		if err != nil {
			return Process{}
		}
		for sc := bufio.NewScanner(f); sc.Scan(); {
			field := strings.Fields(sc.Text())
			if len(field) < 10 || network == "tcp" && field[3] != "0A" { // listening
				continue
			}
			if _, p, _ := strings.Cut(field[1], ":"); p != fmt.Sprintf("%04X", port) {
				continue
			}
			if pid := holder("socket:[" + field[9] + "]"); pid != 0 {
				f.Close()
				return process(pid)
			}
		}
		f.Close()
	}
	return Process{}
}

// holder returns the ID of a process with a descriptor that links to target; 0 if none.
func holder(target string) int {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == target {
			pid, _ := strconv.Atoi(strings.Split(l, "/")[2])
			return pid
		}
	}
	return 0
}

// lockOwner returns the process that has locked a file.
func lockOwner(file string, inode uint64) Process {
	raw, err := os.ReadFile("/proc/locks")
	if err == nil {
		for line := range bytes.Lines(raw) {
			field := strings.Fields(string(line)) // 1: FLOCK ADVISORY WRITE 4242 08:01:1234 0 EOF
			if len(field) < 6 || field[1] != "FLOCK" || !strings.HasSuffix(field[5], ":"+strconv.FormatUint(inode, 10)) {
				continue
			}
			if pid, err := strconv.Atoi(field[4]); err == nil && pid > 0 {
				return process(pid)
			}
		}
	}
	if pid := holder(file); pid != 0 && pid != os.Getpid() {
		return process(pid)
	}
	return Process{}
}
