package serve

import (
	"fmt"

	"golang.org/x/sys/cpu"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/cut"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

// The memory lent, shared by all spans: weights, KV cells and the buffers of a pass
// (graph), as the engine reports them, and what its process takes besides, never take
// more. What an engine takes is known when it has loaded; before that a span reserves the
// least with which it works. An engine has memory only for what it uses, so it mostly
// takes much less; what is reserved is what it may take.

const (
	leastCells = 512 // of a span's KV, or those of the model's context if that is shorter
	leastBatch = route.Chunk
	loadTries  = 4 // of an engine that took more than was foreseen
)

// noRoom says that a span does not fit into what is left of the memory lent.
type noRoom struct{ need, left, lent int64 }

func (e noRoom) Error() string {
	return fmt.Sprintf("it needs %s of the %s left of %s lent; raise the memory", store.SizeText(e.need), store.SizeText(e.left), store.SizeText(e.lent))
}

// reserve sets memory aside for a span, in place of what it had. The error is a noRoom:
// the span then keeps what it had, and is woken when there is room.
func (s *serving) reserve(bytes int64) error {
	srv := s.srv
	srv.mu.Lock()
	defer srv.mu.Unlock()
	left := srv.left(s)
	if bytes > left {
		s.wants, s.wake = bytes, srv.news
		return remedy.For(noRoom{bytes, left, srv.limits().Memory}, remedy.RaiseMemory)
	}
	s.wants, s.wake, s.reserved = 0, nil, bytes
	return nil
}

// release gives back what a span has reserved.
func (s *serving) release() {
	s.srv.mu.Lock()
	defer s.srv.mu.Unlock()
	had := s.reserved
	s.reserved = 0
	if had > 0 {
		s.srv.freed(s)
	}
}

// freed wakes the spans that wait for room if one of them has it now. One that was
// refused for another reason is not woken: two of those would wake each other for ever.
// by has just given memory back; nil: more is lent. Called with mu held.
func (s *Server) freed(by *serving) {
	for _, v := range s.spans {
		if v != by && v.wants > 0 && v.wants <= s.left(v) {
			s.retry()
			return
		}
	}
}

// left is the memory that the other spans leave of what is lent, in bytes. Called with
// mu held; of may be nil.
func (s *Server) left(of *serving) int64 {
	left := s.limits().Memory
	for _, v := range s.spans {
		if v != of {
			left -= v.reserved
		}
	}
	return max(0, left)
}

func (s *Server) leftFor(of *serving) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left(of)
}

// size is how large an engine is to be.
type size struct {
	cells, batch int   // KV cells; rows per pass
	bytes        int64 // in all, as estimated
}

// costs are what an engine of a target takes, in bytes.
type costs struct {
	engine.Cost
	weights  int64
	own      int64 // its process
	sessions int
}

// costsOf are as engines were found to take: within a tenth, for the families of models
// that were tried.
func (s *Server) costsOf(t target) costs {
	man := t.model.Manifest()
	c := costs{own: s.ownBytes(), sessions: s.limits().MaxSessions}
	for _, p := range t.parts() {
		man := p.model.Manifest()
		for _, i := range p.shards() {
			c.weights += man.Shards[i].Size
			if man.Shards[i].Kind == protocol.ShardEmbedding && man.TiedOutput && !engine.Maps {
				c.weights += man.Shards[i].Size // copied once for each of its two uses
			}
		}
	}
	if h, err := t.model.Header(); err == nil {
		name := engine.BuiltIn
		if s.cfg.Engines.Use == engine.Llama || engine.Check(h) != nil {
			name = engine.Llama
			c.weights += cut.Copied(h, t.span, cpu.X86.HasAMXInt8)
		}
		c.Cost = engine.CostOf(h, t.span, name, s.cfg.KVType)
	} else { // at most, but for a few models
		c.Token, c.Row = 4*man.Width*int64(t.span.Len()), 16*man.Width+8<<10
	}
	return c
}

// ownBytes is what an engine's process takes besides.
func (s *Server) ownBytes() int64 {
	if s.cfg.InProcess {
		return 0
	}
	return engineOwn
}

// bytes is what an engine takes in all.
func (c costs) bytes(cells, batch int) int64 {
	return c.weights + c.own + c.KV(cells, c.sessions, batch) + c.Pass(cells, c.sessions, batch)
}

// least is the smallest engine of a target that is of use.
func (s *Server) least(t target) size {
	if pooling(t.model) != engine.NoPooling {
		z, _ := s.textSize(t, 0)
		return z
	}
	cells := leastCells
	if man := t.model.Manifest(); man.Context > 0 {
		cells = int(min(man.Context, leastCells))
	}
	if s.cfg.KVTokens > 0 {
		cells = s.cfg.KVTokens
	}
	return size{cells, leastBatch, s.costsOf(t).bytes(cells, leastBatch)}
}

// sizeOf is the largest engine of a target that is wanted and fits into room: with as
// many cells as a quarter of the memory lent holds, but at most those of eight sessions
// of the model's whole context, or 64k. Where room is short, first passes have fewer
// rows, then there are fewer cells.
func (s *Server) sizeOf(t target, room int64) (size, bool) {
	if pooling(t.model) != engine.NoPooling {
		return s.textSize(t, room)
	}
	least, c := s.least(t), s.costsOf(t)
	want := s.cfg.KVTokens
	if want <= 0 {
		want = max(least.cells, int(s.kvTokens(t)))
	}
	for batch := maxBatch; batch >= leastBatch; batch /= 2 {
		if n := c.bytes(want, batch); n <= room {
			return size{want, batch, n}, true
		}
	}
	if least.bytes > room {
		return least, false
	}
	cells := least.cells
	for more := want - cells; more > 0; more /= 2 {
		if c.bytes(cells+more, leastBatch) <= room {
			cells += more
		}
	}
	return size{cells, leastBatch, c.bytes(cells, leastBatch)}, true
}
