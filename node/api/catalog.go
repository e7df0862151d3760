package api

import (
	"context"
	"net/http"
	"net/url"
)

// Catalogue searches for models, whether they are here or not.
type Catalogue interface {
	// Search lists the models that match all words; without words, all models.
	Search(ctx context.Context, words []string) ([]Listed, error)
}

// Listed is a model of the catalogue. Unknown fields are absent.
type Listed struct {
	Name         string   `json:"name"`
	Also         []string `json:"also,omitempty"` // other names
	Title        string   `json:"title,omitempty"`
	Architecture string   `json:"architecture,omitempty"`
	Parameters   string   `json:"parameters,omitempty"` // for people: 8.2B
	Quantization string   `json:"quantization,omitempty"`
	Licence      string   `json:"licence"`
	Size         int64    `json:"size,omitempty"`   // bytes
	Sha256       []string `json:"sha256,omitempty"` // of each file
	ID           string   `json:"id,omitempty"`     // the manifest's CID: the catalogue's, or the model that the name meant here before
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

// Search lists the models of the node's catalogue that match all words. Errors: see
// Client.
func (c *Client) Search(ctx context.Context, words []string) (list []Listed, err error) {
	err = c.get(ctx, "/shoal/v1/catalog?"+url.Values{"word": words}.Encode(), &list)
	return list, err
}
