package node

import (
	"os"
	"runtime/debug"
)

// engineOwn is what an engine's process takes besides weights, KV cells and
// buffers, in bytes.
const engineOwn = 64 << 20

// goShare is how much memory Go is to keep to in this process, where the machine
// or control group has total and each engine takes so much: what they leave,
// without an eighth for the kernel's own and what C libraries and stacks take.
// It is an eighth at least, even where nothing is left: the less Go has, the more
// it does nothing but look for garbage.
func goShare(total int64, engines []int64) int64 {
	left := total - total/8
	for _, takes := range engines {
		left -= takes + engineOwn
	}
	return max(left, total/8, 64<<20)
}

// claim says how much memory the span's engine takes, or is about to: 0 when it
// is gone. The Go side of this process gets the rest, unless GOMEMLIMIT says
// otherwise.
func (s *serving) claim(bytes int64) {
	n := s.node
	n.mu.Lock()
	s.taken = bytes
	n.mu.Unlock()
	n.shareMemory()
}

func (n *Node) shareMemory() {
	if n.cfg.Engine != nil || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	var engines []int64
	n.mu.Lock()
	for _, s := range n.serving {
		if s.taken > 0 {
			engines = append(engines, s.taken)
		}
	}
	n.mu.Unlock()
	debug.SetMemoryLimit(goShare(machineMemory(), engines))
}
