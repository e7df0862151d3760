//go:build !linux

// Command reach needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "reach: this needs Linux, for network namespaces; nothing was tested")
	os.Exit(1)
}
