package llama

// #include "shim.h"
import "C"

// Trim implements engine.Trimmer. The buffers of the largest pass belong to the library's
// context. So it is given up while there is no sequence, and the next pass makes another
// one. Where there are sequences, it is replaced if that takes less than those buffers.
func (l *local) Trim() {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := &l.kv
	if l.closed || k.context == nil {
		return
	}
	if k.used() == 0 {
		C.sl_context_free(k.context)
		k.context = nil
		k.cells, k.seqs = k.fitting()
	} else if k.ran && uint64(C.sl_state_size(k.context)) < l.info.Graph {
		cells, seqs := k.fitting()
		if err := k.resize(cells, seqs); err != nil {
			l.log.Warn("the cache could not be laid out smaller", "err", err)
		}
	}
	C.sl_trim()
}
