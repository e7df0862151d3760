package llama

// #include "shim.h"
import "C"

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// line is one of the library's log.
type line struct {
	level int
	text  string
}

// Levels of the library's log. A line that goes on has another one.
const (
	levelError = 4
	levelMore  = 5
)

// hearing is where the library's log goes: it has one per process. It says nothing
// of what is computed, only of what is loaded and laid out.
var hearing struct {
	sync.Mutex
	log     *slog.Logger // nil: nowhere
	keep    bool
	kept    []line
	partial line
}

// keptLines bounds what is kept: a hostile file could be worth a line per tensor.
const keptLines = 4096

//export shoalLlamaLog
func shoalLlamaLog(level C.int, text *C.char) { hear(int(level), C.GoString(text)) }

// hear takes a piece of the library's log, which comes in lines or parts of them.
func hear(level int, text string) {
	hearing.Lock()
	defer hearing.Unlock()
	if level != levelMore {
		hearing.partial = line{level: level}
	}
	parts := strings.Split(text, "\n")
	for _, rest := range parts[:len(parts)-1] {
		l := hearing.partial
		l.text = strings.TrimSpace(l.text + rest)
		hearing.partial.text = ""
		if strings.Trim(l.text, ".") == "" {
			continue
		}
		if hearing.log != nil {
			// Its warnings are about settings that this package chose.
			at := slog.LevelDebug
			if l.level == levelError {
				at = slog.LevelWarn
			}
			hearing.log.Log(context.Background(), at, "libllama: "+l.text)
		}
		if hearing.keep && len(hearing.kept) < keptLines {
			hearing.kept = append(hearing.kept, l)
		}
	}
	hearing.partial.text += parts[len(parts)-1]
}

// listen runs f and returns what the library said meanwhile. It is called under the
// lock of who alone makes something just then.
func listen(f func()) []line {
	set := func(keep bool) (kept []line) {
		hearing.Lock()
		defer hearing.Unlock()
		kept, hearing.kept, hearing.keep = hearing.kept, nil, keep
		return kept
	}
	set(true)
	f()
	return set(false)
}

// complaint is the first error among lines: those that follow are about what it led to.
func complaint(lines []line) string {
	for _, l := range lines {
		if l.level == levelError {
			return l.text
		}
	}
	return "it does not say why"
}

// complaints reports whether a line contains any of the texts.
func complains(lines []line, texts ...string) bool {
	return slices.ContainsFunc(lines, func(l line) bool {
		return slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(l.text, t) })
	})
}
