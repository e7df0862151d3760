package api

import (
	"context"
	"net/http"
	"net/url"
)

// Catalogue finds models by what they are, whether they are here or not.
type Catalogue interface {
	// Search lists the models that all words fit; no word: all.
	Search(ctx context.Context, words []string) ([]Listed, error)
}

// Listed is a model of the catalogue. What is not known is absent.
type Listed struct {
	Name         string   `json:"name"`
	Also         []string `json:"also,omitempty"` // other names
	Title        string   `json:"title,omitempty"`
	Architecture string   `json:"architecture,omitempty"`
	Parameters   string   `json:"parameters,omitempty"` // as people say it: 8.2B
	Quantization string   `json:"quantization,omitempty"`
	Licence      string   `json:"licence"`
	Size         int64    `json:"size,omitempty"`   // bytes
	Sha256       []string `json:"sha256,omitempty"` // of each file
	ID           string   `json:"id,omitempty"`     // the manifest's CID: the catalogue's, or what the name meant here
	Origins      []string `json:"origins"`
	Here         string   `json:"here,omitempty"` // all, part, or absent
	Peers        int      `json:"peers"`          // that serve or hold it
}

func (s *server) search(w http.ResponseWriter, r *http.Request) error {
	if s.Catalogue == nil {
		return s.nothing(w, r)
	}
	list, err := s.Catalogue.Search(r.Context(), r.URL.Query()["word"])
	if err == nil {
		writeJSON(w, http.StatusOK, noNull(list))
	}
	return err
}

// Search lists the models of the node's catalogue that all words fit. Errors:
// see Client.
func (c *Client) Search(ctx context.Context, words []string) (list []Listed, err error) {
	err = c.get(ctx, "/shoal/v1/catalog?"+url.Values{"word": words}.Encode(), &list)
	return list, err
}
