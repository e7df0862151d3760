package serve

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/files"
)

// verdicts are which engine was measured to be the faster one for a span, over restarts.
// They are safe for concurrent use.
type verdicts struct {
	file string // "": they are kept in memory alone

	mu   sync.Mutex
	list []verdict // the newest last
}

// verdict is the outcome of one comparison.
type verdict struct {
	question
	Engine  string `json:"engine"`
	At      int64  `json:"at_unix"`
	BuiltIn int64  `json:"built_in_ns"` // what a typical answer costs per block, in nanoseconds
	Library int64  `json:"library_ns"`
}

// question is what a verdict depends on.
type question struct {
	Span     string `json:"span"`     // model and blocks
	How      string `json:"how"`      // KV cache, threads and devices
	Versions string `json:"versions"` // of this program and of the library
}

const (
	mostVerdicts = 256

	// How much faster the library must be than the built-in engine at first. Later, with
	// other versions, the loser must be faster than the winner by more: each change of
	// engine changes the last bits.
	margin      = 1.1
	laterMargin = 1.2

	// And where measurements of the same differ widely.
	busyMargin = 1.5

	// A verdict counts for a week: it may come from an hour in which the machine was busy.
	verdictLife = 7 * 24 * time.Hour

	typicalPrompt, typicalAnswer = 256, 128 // tokens
)

// cost is what a typical answer takes per block.
func (m measured) cost() time.Duration {
	return typicalPrompt*m.prefill + typicalAnswer*m.decode
}

// question returns what the choice of an engine for a target depends on.
func (s *Server) question(t target, lib Library) question {
	return question{
		Span:     t.model.ID().String() + " " + t.span.String(),
		How:      fmt.Sprintf("%s, %d threads, %s", s.cfg.KVType, s.limits().Threads, strings.Join(s.cfg.Devices, " ")),
		Versions: s.cfg.Version + ", " + lib.ID,
	}
}

// readVerdicts reads what was measured before. A file that cannot be read counts for
// nothing: all is measured again.
func readVerdicts(file string) *verdicts {
	v := &verdicts{file: file}
	raw, err := os.ReadFile(file)
	if err != nil || len(raw) > 1<<20 || json.Unmarshal(raw, &v.list) != nil {
		v.list = nil
	}
	v.list = v.list[max(0, len(v.list)-mostVerdicts):]
	return v
}

// of returns the engine that was faster; "": it was never measured.
func (v *verdicts) of(q question) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, was := range v.list {
		if was.question == q && time.Since(time.Unix(was.At, 0)).Abs() < verdictLife && (was.Engine == engine.BuiltIn || was.Engine == engine.Llama) {
			return was.Engine
		}
	}
	return ""
}

// decide returns the engine to use: that of the last verdict about the same span, unless
// the other is faster by a clear margin. It keeps the comparison if that was steady.
func (v *verdicts) decide(q question, builtIn, library time.Duration, steady bool) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	holder, need := engine.BuiltIn, margin
	kept := v.list[:0:0]
	for _, was := range v.list {
		if was.Span == q.Span && was.How == q.How {
			holder, need = was.Engine, laterMargin
		}
		if was.question != q {
			kept = append(kept, was)
		}
	}
	if !steady {
		need = busyMargin
	}
	choice := holder
	switch {
	case holder == engine.Llama && float64(library) > need*float64(builtIn):
		choice = engine.BuiltIn
	case holder != engine.Llama:
		if choice = engine.BuiltIn; float64(builtIn) > need*float64(library) {
			choice = engine.Llama
		}
	}
	if !steady {
		return choice
	}
	v.list = append(kept, verdict{q, choice, time.Now().Unix(), int64(builtIn), int64(library)})
	v.list = v.list[max(0, len(v.list)-mostVerdicts):]
	if raw, err := json.MarshalIndent(v.list, "", " "); err == nil && v.file != "" {
		_ = files.Replace(v.file, raw, 0o600) // at worst it is measured again
	}
	return choice
}
