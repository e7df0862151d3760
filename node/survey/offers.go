package survey

import (
	"context"
	"strings"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/protocol"
)

// Renew asks the members for their offers in the background, now and then.
func (s *Survey) Renew(ctx context.Context) {
	s.net.Offers(ctx, cid.Undef, func([]*protocol.Offer) bool { return true })
}

// NameOf returns what a peer that is known calls a model; "": none does.
func (s *Survey) NameOf(model cid.Cid) string {
	for _, o := range s.net.Known(model) {
		if name := o.NameOf(model); name != "" {
			return name
		}
	}
	return ""
}

// Index counts the peers that serve or hold models. It is not changed after it was
// returned.
type Index struct{ byModel, byName map[string]int }

// Index asks the members for their offers and counts what others than this node
// offer.
func (s *Survey) Index(ctx context.Context) *Index {
	x := &Index{map[string]int{}, map[string]int{}}
	for _, o := range s.net.Offers(ctx, cid.Undef, nil) {
		if s.net.Own(o.From) {
			continue
		}
		ids, names := map[string]bool{}, map[string]bool{}
		models(o, func(raw []byte, name string) { ids[string(raw)], names[strings.ToLower(name)] = true, true })
		for id := range ids {
			x.byModel[id]++
		}
		for name := range names {
			x.byName[name]++
		}
	}
	return x
}

// Peers is how many peers offer a model: the one with the CID, or, if that is
// undefined, one of the name.
func (x *Index) Peers(model cid.Cid, name string) int {
	if model.Defined() {
		return x.byModel[model.KeyString()]
	}
	return x.byName[strings.ToLower(name)]
}

// models calls do with the CID and the name of every model of an offer, as often as
// it is in there.
func models(o *protocol.Offer, do func(model []byte, name string)) {
	for _, sp := range o.Spans {
		do(sp.Model, sp.Name)
	}
	for _, h := range o.Shards {
		do(h.Model, h.Name)
	}
}
