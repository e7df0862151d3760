package llama

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/shoalnet/shoal/node/engine"
)

// sizes matches what the library says of its buffers: device, kind and size in MiB.
// No function of it tells.
var sizes = regexp.MustCompile(`(\S+)\s+(model|KV|RS|compute|output) buffer size\s*=\s*([0-9.]+) MiB`)

// buffers are sizes by kind, in bytes: all, and those in this machine's own memory.
type buffers struct{ all, host map[string]float64 }

func buffersOf(lines []line) buffers {
	b := buffers{map[string]float64{}, map[string]float64{}}
	for _, l := range lines {
		m := sizes.FindStringSubmatch(l.text)
		if m == nil {
			continue
		}
		device, kind := m[1], m[2]
		if kind == "model" && strings.HasSuffix(device, "_Mapped") {
			continue // of the file itself
		}
		mib, _ := strconv.ParseFloat(m[3], 64)
		b.all[kind] += mib * (1 << 20)
		if strings.HasPrefix(device, "CPU") || device == "AMX" || strings.HasSuffix(device, "_Host") {
			b.host[kind] += mib * (1 << 20)
		}
	}
	return b
}

// measure finds what the cache and the passes take, at most, from what the library
// said of the model and of a context.
func (k *kv) measure(lines []line) error {
	l, b := k.of, buffersOf(lines)
	whole, each := float64(k.limit)/float64(k.cells), float64(l.cfg.MaxSeqs)/float64(k.seqs)
	grown := func(of map[string]float64) uint64 { return uint64(of["KV"]*whole + of["RS"]*each) }
	pasts := uint64(k.budget(int64(b.all["RS"] / float64(k.seqs))))
	i := &l.info
	i.KV = grown(b.all) + pasts
	i.Graph = uint64(b.all["compute"] + b.all["output"])
	i.Host = grown(b.host) + pasts + uint64(b.host["compute"]+b.host["output"]) + l.copied
	if i.Devices[0].Library == "CPU" {
		i.Host += i.Weights // mapped
	}
	if m := l.cfg.Memory; m > 0 && i.KV+i.Graph > uint64(m) {
		return tooLarge(fmt.Errorf("%w: %d bytes of keys and values for %d KV tokens", engine.ErrMemory, i.KV, l.cfg.KVTokens))
	}
	return nil
}
