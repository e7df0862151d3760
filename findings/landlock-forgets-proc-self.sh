#!/bin/sh
# go-landlock 0.11.0 on Linux (seen on 6.18, Landlock ABI 7): a rule that allows
# /proc/self holds only for as long as the kernel happens to keep that directory's
# inode in memory.
#
# Seen: a process allows itself to read below /proc/self and may read
# /proc/self/status. Then the kernel's caches of names and inodes are dropped, as
# they are when memory is short, and the same read is denied for good: /proc makes a
# new inode for the directory, and Landlock's rule was tied to the old one. Where the
# process keeps /proc/self open from before the rule was made, nothing changes.
#
# Why it matters: whoever fences a process so (Go's and OpenMP's runtimes read below
# /proc/self) sees it fail hours later, on a busy machine, and nowhere else. shoal's
# fence keeps the directory open.
#
# Needs root (to drop caches of names and inodes, which costs the machine a moment)
# and a kernel with Landlock; fails if the behaviour is another.
set -eu
[ "$(id -u)" = 0 ] || { echo "root is needed" >&2; exit 2; }
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
cat > go.mod <<'MOD'
module finding

go 1.26

require github.com/landlock-lsm/go-landlock v0.11.0
MOD
cat > main.go <<'GO'
package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/landlock-lsm/go-landlock/landlock"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func main() {
	caches := must(os.OpenFile("/proc/sys/vm/drop_caches", os.O_WRONLY, 0))
	if os.Args[1] == "open" {
		defer runtime.KeepAlive(must(os.Open("/proc/self")))
	}
	if err := landlock.V5.Restrict(landlock.RODirs("/proc/self")); err != nil {
		panic(err)
	}
	read := func() bool {
		_, err := os.ReadFile("/proc/self/status")
		return err == nil
	}
	before := read()
	must(caches.WriteString("2"))
	fmt.Printf("kept %s: may read before: %v, after: %v\n", os.Args[1], before, read())
}
GO
go mod tidy >/dev/null 2>&1
CGO_ENABLED=0 go build -o finding .
want='kept closed: may read before: true, after: false
kept open: may read before: true, after: true'
got=$(./finding closed; ./finding open)
echo "$got"
[ "$got" = "$want" ] || { echo "the behaviour has changed" >&2; exit 1; }
