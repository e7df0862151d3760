package report

import (
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/node/serve"
)

// warnings lists what the operator should know of this node: what the program says of
// itself, and which models it serves without the exact results that it was asked for.
func (r *Reporter) warnings(snap *serve.Snapshot) []string {
	if !r.cfg.Exact {
		return r.cfg.Warnings
	}
	list := slices.Clone(r.cfg.Warnings)
	for i := range snap.Spans {
		s := &snap.Spans[i]
		if !s.Loaded || s.Engine.Exact {
			continue
		}
		if w := fmt.Sprintf("%s is not served exactly, as was asked for: %s", s.Name(), inexact(s)); !slices.Contains(list, w) {
			list = append(list, w)
		}
	}
	return list
}

// inexact says why a span's results are not exact.
func inexact(s *serve.Span) string {
	switch {
	case s.Engine.Pooling != "":
		return "it makes embeddings"
	case s.Engine.Back >= 0:
		return "some of its blocks are recurrent, which no engine computes the same to the last bit whatever else it computes at the time"
	}
	for _, d := range s.Engine.Devices {
		if d.Library != "CPU" {
			return "a graphics card computes it"
		}
	}
	return "its engine cannot"
}
