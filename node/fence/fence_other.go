//go:build !linux

package fence

import "runtime"

// Up does nothing on this system, and reports that. Landlock and seccomp exist
// only on Linux; macOS has a sandbox, which Apple has deprecated and does not
// document.
func Up(Rules) *Report {
	r := &Report{Holds: []string{"environment"}}
	for _, what := range []string{"files", "network", "programs", "signals", "parent", "cores", "memory"} {
		r.say(what, false, runtime.GOOS+" has no fence")
	}
	return r
}

// Settle does nothing here.
func (r *Report) Settle() {}
