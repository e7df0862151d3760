package network

import (
	"os"
	"strconv"
	"strings"

	"github.com/shoalnet/shoal/node/files"
)

// FreePort returns a port that is free for both UDP and TCP. Errors are those of
// listening.
func FreePort() (int, error) { return freePort() }

// KeptPort returns the port in a file that KeepPort wrote; 0 if there is none.
func KeptPort(file string) int {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	port, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || port < 1 || port > 65535 {
		return 0
	}
	return port
}

// KeepPort writes a port into a file, for the next start. Errors are those of writing.
func KeepPort(file string, port int) error {
	return files.Replace(file, []byte(strconv.Itoa(port)+"\n"), 0o644)
}
