// Package tinymodel holds a very small chat model inside the program, so that
// a first try needs no download. README.md beside it describes what it can do and
// how it was made.
package tinymodel

import _ "embed"

// Name of the model.
const Name = "tinytales"

//go:embed tinytales.gguf
var file []byte

// GGUF is the content of the model's file.
func GGUF() []byte { return file }
