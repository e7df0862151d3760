//go:build !unix

package ggml

import (
	"errors"
	"os"
)

// mapFile is not done here: a file that is mapped cannot be made shorter on Windows, and
// the store must be able to.
func mapFile(*os.File) (data []byte, unmap func(), err error) { return nil, nil, errors.ErrUnsupported }
