package protocol

import (
	"errors"
	"strings"
)

// Class names what computes with the same bits, for people and for comparison:
// "llama v0.5.0, CUDA, f16". It is empty for a nil Engine, which an older node offers.
func (e *Engine) Class() string {
	if e == nil {
		return ""
	}
	return strings.TrimSpace(e.Name+" "+e.Version) + ", " + e.Device + ", " + e.Kv
}

// check refuses names that are too long to be shown, or that no screen can show.
func (e *Engine) check() error {
	for _, s := range []string{e.GetName(), e.GetVersion(), e.GetDevice(), e.GetKv()} {
		if MachineName(s) != s {
			return errors.New("an engine with an impossible name")
		}
	}
	return nil
}
