//go:build !cgo

package prometheus

import (
	"testing"

	"github.com/shoalnet/shoal/node/engine"
)

// realEngine skips the test: without C there is no engine.
func realEngine(t testing.TB) engine.Loader {
	t.Helper()
	t.Skip("needs the engine, which is built with C: CGO_ENABLED=0")
	return nil
}
