package survey

import (
	"fmt"
	"hash/fnv"
	"math/bits"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/protocol"
)

// Prospects returns another number when peers offer something else of a model than
// before, by the known offers; 0: they offer nothing. Where the model is undefined, name
// is what it may be called.
func (s *Survey) Prospects(model cid.Cid, name string) uint64 {
	concerns := func(of cid.Cid, called string) bool {
		if model.Defined() {
			return of == model
		}
		return protocol.MatchModel(name, of, []string{called}) != protocol.MatchNone
	}
	h, some := fnv.New64a(), false
	for _, o := range s.net.Known(model) {
		if s.net.Own(o.From) {
			continue
		}
		for _, held := range o.Shards {
			if !concerns(held.ModelID(), held.Name) {
				continue
			}
			n := 0
			for _, b := range held.Bitmap {
				n += bits.OnesCount8(b)
			}
			fmt.Fprintln(h, o.From, n)
			some = true
		}
		for _, sp := range o.Spans {
			if !model.Defined() && concerns(sp.ModelID(), sp.Name) {
				fmt.Fprintln(h, o.From)
				some = true
			}
		}
	}
	if !some {
		return 0
	}
	return h.Sum64() | 1
}
