package serve

import (
	"os"
	"runtime/debug"
)

// engineOwn is what an engine's process takes besides weights, KV cells and buffers, in
// bytes: its heaps, its threads, and what of the program it runs. It was measured at 28
// MiB at rest, and at 45 in a pass.
const engineOwn = 48 << 20

// goShare is how much memory Go is to keep to in this process, in bytes, where the
// machine or control group has total and each engine takes so much: what they leave,
// less an eighth for the kernel and for C libraries and stacks. It is at least an
// eighth, even where nothing is left: with less, Go would only collect garbage.
func goShare(total int64, engines []int64) int64 {
	left := total - total/8
	for _, takes := range engines {
		left -= takes + engineOwn
	}
	return max(left, total/8, 64<<20)
}

// claim notes how much memory the span's engine takes, or is about to: 0 when it is
// gone. The Go side of this process gets the rest, unless GOMEMLIMIT sets its limit.
func (s *serving) claim(bytes int64) {
	s.srv.mu.Lock()
	s.taken = bytes
	s.srv.mu.Unlock()
	s.srv.shareMemory()
}

func (s *Server) shareMemory() {
	if s.cfg.InProcess || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	s.sharing.Lock()
	defer s.sharing.Unlock()
	var engines []int64
	s.mu.Lock()
	for _, v := range s.spans {
		if v.taken > 0 {
			engines = append(engines, v.taken)
		}
		if v.draft != nil && v.draft.taken > 0 {
			engines = append(engines, v.draft.taken)
		}
	}
	s.mu.Unlock()
	debug.SetMemoryLimit(goShare(MachineMemory(), engines))
}
