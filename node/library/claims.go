package library

import "github.com/shoalnet/shoal/node/survey"

// maxListed is how many models of peers a list has at most.
const maxListed = 200

// Listed returns the models of peers that a list shows, of those that are not here:
// what the catalogue knows, and what connected peers serve whole.
func (l *Library) Listed(heard []*survey.Claim) (out []*survey.Claim) {
	named := map[string]bool{} // names of the catalogue that stand in the list
	for _, c := range heard {
		if _, err := l.store.Model(c.ID); err == nil || len(out) == maxListed {
			continue
		}
		if c.Whole || c.Served && l.names.lists(c, named) {
			out = append(out, c)
		}
	}
	return out
}

// lists reports that a claim is of a model in the catalogue: by its CID or, where
// nobody knows that, by the name, which belongs to the first claim.
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
