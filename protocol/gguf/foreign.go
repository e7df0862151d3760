package gguf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// foreignHead is how many bytes Foreign needs at most.
const foreignHead = 512

// Foreign says what a file that begins with these bytes is and how to come to a
// model from there, if it is one of the kinds that people have in place of a
// GGUF file: "a Git LFS pointer ...; fetch ...". It returns "" for others.
func Foreign(head []byte) string {
	for _, k := range foreign {
		if bytes.HasPrefix(head, []byte(k.magic)) {
			return k.is
		}
	}
	switch start := strings.ToLower(strings.TrimLeft(strings.TrimPrefix(string(head), "\ufeff"), " \t\r\n")); {
	case strings.HasPrefix(start, "version https://git-lfs"):
		return "a Git LFS pointer" + pointsTo(string(head)) + "; fetch the file itself, as git lfs pull does"
	case strings.HasPrefix(start, "/annex/objects/"):
		return "a git-annex pointer; fetch the file itself, as git annex get does"
	case strings.HasPrefix(start, "<!doctype html"), strings.HasPrefix(start, "<html"), strings.HasPrefix(start, "<head"), strings.HasPrefix(start, "<!--"):
		return "an HTML page; it may be a page about the file (take the address of the download), or one that asks for a login"
	case strings.HasPrefix(start, "<?xml"):
		return "an XML document, perhaps a server's message; open it to read why"
	case strings.HasPrefix(start, "{"), strings.HasPrefix(start, "["):
		return "JSON" + beginning(head) + "; it may be a server's message, or an index of the model's files"
	}
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return "a tar archive; unpack it first"
	}
	if len(head) > 8 && head[8] == '{' && binary.LittleEndian.Uint64(head) < 1<<32 {
		return "a safetensors file; name the directory that it lies in with its config.json to have it converted, or take a GGUF file of the model"
	}
	if len(head) >= 16 && len(bytes.Trim(head, "\x00")) == 0 {
		return "empty at its beginning, as of a download that did not finish; fetch it again"
	}
	if s := beginning(head); s != "" {
		return "a text" + s
	}
	return ""
}

// foreign are kinds of file that their first bytes tell.
var foreign = []struct{ magic, is string }{
	{"PK\x03\x04", "a ZIP archive; unpack it, or if it is a PyTorch checkpoint, take a GGUF file of the model"},
	{"\x1f\x8b", "compressed with gzip; unpack it first"},
	{"\xfd7zXZ\x00", "compressed with xz; unpack it first"},
	{"\x28\xb5\x2f\xfd", "compressed with Zstandard; unpack it first"},
	{"BZh", "compressed with bzip2; unpack it first"},
	{"7z\xbc\xaf", "a 7z archive; unpack it first"},
	{"\x80\x02", "a PyTorch checkpoint (pickle); take a GGUF file of the model"},
	{"lmgg", "in the GGML format that GGUF replaced in 2023; take a GGUF file of the model"},
	{"fmgg", "in the GGMF format that GGUF replaced in 2023; take a GGUF file of the model"},
	{"tjgg", "in the GGJT format that GGUF replaced in 2023; take a GGUF file of the model"},
	{"algg", "a GGML adapter (LoRA); take a GGUF file of a whole model"},
	{"FUGG", "big-endian; convert it to little-endian first"},
	{"%PDF", "a PDF document; take the model's GGUF file"},
}

// pointsTo says how large the file is that an LFS pointer stands for.
func pointsTo(pointer string) string {
	_, rest, _ := strings.Cut(pointer, "\nsize ")
	size, _, _ := strings.Cut(rest, "\n")
	if n := len(size); n == 0 || n > 15 || strings.Trim(size, "0123456789") != "" {
		return ""
	}
	return fmt.Sprintf(", which stands for a file of %s bytes", size)
}

// beginning quotes how a text begins; "" if it is none.
func beginning(head []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(head), []byte("\n"))
	line = line[:min(len(line), 60)]
	for len(line) > 0 && !utf8.Valid(line) && len(line) > 56 { // cut inside a character
		line = line[:len(line)-1]
	}
	for _, r := range string(line) {
		if r == utf8.RuneError || r < ' ' && r != '\t' {
			return ""
		}
	}
	if len(line) < 4 {
		return ""
	}
	return fmt.Sprintf(" that begins with %q", line)
}
