package serve

import (
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/store"
)

// Spans of models that make embeddings. A text takes one pass, and nothing of it stays,
// so an engine has as many cells as a pass has rows, and a slot per text of a pass.

const (
	textsPerPass  = 64
	longestText   = 8192 // tokens, where memory allows
	longestHidden = 2048 // the same where texts come as activations, which wait in memory until the text is whole
	leastText     = 512
)

// pooling is how a model makes embeddings; NoPooling if it draws tokens, or is not known.
func pooling(m *store.Model) engine.Pooling {
	h, err := m.Header()
	if err != nil {
		return engine.NoPooling
	}
	return engine.PoolingOf(h)
}

// textSize is the engine of a model that makes embeddings which takes the longest texts
// that fit into room.
func (s *Server) textSize(t target, room int64) (size, bool) {
	c := s.costsOf(t)
	c.sessions = 1
	most := longestText
	if t.span.From > 0 {
		most = longestHidden
	}
	if n := int(t.model.Manifest().Context); n > 0 {
		most = min(most, n)
	}
	for rows := most; ; rows /= 2 {
		z := size{rows, rows, c.bytes(rows, rows)}
		if z.bytes <= room || rows <= min(leastText, most) {
			return z, z.bytes <= room
		}
	}
}
