package node

import (
	"context"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

const (
	maxListed = 200 // models in a list
	maxOfPeer = 8   // of which one peer brings so many
	maxTried  = 8   // manifests that are fetched for one name

	graceTime = 2 * time.Second
)

// listed are the models of peers that a list shows: of those not here, what the
// catalogue knows, and what peers that are there serve whole.
func (n *Node) listed(heard []*survey.Claim) (out []*survey.Claim) {
	named := map[string]bool{} // names of the catalogue that stand in the list
	for _, c := range heard {
		if _, err := n.store.Model(c.ID); err == nil || len(out) == maxListed {
			continue
		}
		if c.Whole || c.Served && n.names.lists(c, named) {
			out = append(out, c)
		}
	}
	return out
}

// lists says that a claim is of a model in the catalogue: by its CID or, where
// nobody knows that, by the name, which the first to come has.
func (s *names) lists(c *survey.Claim, named map[string]bool) bool {
	for _, name := range c.Names {
		e := s.Find(name)
		if e == nil {
			continue
		}
		if id := s.meaning(e); id.Defined() && id.Equals(c.ID) {
			return true
		} else if !id.Defined() && !named[e.Name] {
			named[e.Name] = true
			return true
		}
	}
	return false
}

// real are those of the likeliest claims whose manifests can be had, and are as
// they should be, in their order. Once one has come, the others have graceTime.
func (n *Node) real(ctx context.Context, found []*survey.Claim, good func(*protocol.Manifest) bool) (out []*survey.Claim) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	found = found[:min(len(found), maxTried)]
	came := make([]bool, len(found))
	var wg sync.WaitGroup
	for i, c := range found {
		wg.Go(func() {
			raw, err := n.exchange.Manifest(ctx, c.ID)
			if err != nil {
				return
			}
			man, err := protocol.DecodeManifest(raw)
			if came[i] = err == nil && good(man); came[i] {
				time.AfterFunc(graceTime, cancel)
			}
		})
	}
	wg.Wait()
	for i, c := range found {
		if came[i] {
			out = append(out, c)
		}
	}
	return out
}

// unclear is the error where a name must mean one model, and means several.
func unclear(name string, found []*survey.Claim) error {
	return api.Errorf(api.BadInput, "peers call %d models %q; name one of %s", len(found), name, survey.ListOf(found, func(c *survey.Claim) string { return c.ID.String() }))
}
