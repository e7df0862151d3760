package generate

import (
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/protocol"
)

// classes are what computes the stages of an answer's route. They are kept when a route
// is taken, since a peer may offer the same span by another engine later. Guarded by
// costs.mu.
type classes map[stageKey]string

// take notes what computes the stages of a route that an answer is on from now. It
// returns where that differs from what computed the same blocks before, if anything did.
func (c *costs) take(hops []session.Hop) (changes []api.EngineChange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.classes
	c.classes = classes{}
	for _, h := range hops {
		key := stageKey{h.Peer.String(), h.Span}
		if class, stays := old[key]; stays {
			c.classes[key] = class
			continue
		}
		c.classes[key] = c.stages[key].Class
		for was, class := range old {
			if class != "" && class != c.classes[key] && was.span.Overlaps(h.Span) {
				changes = append(changes, api.EngineChange{From: max(was.span.From, h.Span.From), To: min(was.span.To, h.Span.To), Was: class, Now: c.classes[key]})
			}
		}
	}
	return changes
}

// like is what computes the blocks of a span of the route now.
func (c *costs) like(span protocol.Span) (like []route.Like) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, class := range c.classes {
		if class != "" && key.span.Overlaps(span) {
			like = append(like, route.Like{Span: key.span, Class: class})
		}
	}
	return like
}

// class is what computes a stage of the route; "": unknown.
func (c *costs) class(h session.Hop) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.classes[stageKey{h.Peer.String(), h.Span}]
}
