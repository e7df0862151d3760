package convert

import (
	"bytes"
	"io/fs"
	"time"
)

// memoryFile is a file in memory.
type memoryFile struct {
	*bytes.Reader
	name string
}

func memory(name string, raw []byte) fs.File { return memoryFile{bytes.NewReader(raw), name} }

func (f memoryFile) Close() error               { return nil }
func (f memoryFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f memoryFile) Name() string               { return f.name }
func (f memoryFile) Mode() fs.FileMode          { return 0o444 }
func (f memoryFile) ModTime() time.Time         { return time.Time{} }
func (f memoryFile) IsDir() bool                { return false }
func (f memoryFile) Sys() any                   { return nil }
