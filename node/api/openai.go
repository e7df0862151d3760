package api

import (
	"crypto/rand"
	"net/http"
	"strings"
)

// chat answers POST /v1/chat/completions.
func (s *server) chat(w http.ResponseWriter, r *http.Request) error {
	return s.complete(w, r, decodeChat)
}

// completions answers POST /v1/completions.
func (s *server) completions(w http.ResponseWriter, r *http.Request) error {
	return s.complete(w, r, decodeCompletion)
}

func (s *server) complete(w http.ResponseWriter, r *http.Request, decode func([]byte) (*job, error)) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	j, err := decode(body)
	if err != nil {
		return err
	}
	n := int64(len(j.reqs))
	defer s.active.Add(-n)
	if s.active.Add(n) > int64(s.MaxAnswers) {
		return Errorf(Refused, "this node has %d answers in the making, which is its limit: try again soon", s.MaxAnswers)
	}
	return newAnswer(s, w, r, j).run()
}

// models answers GET /v1/models. A model goes by its name; where two share it,
// the later ones go by their CID.
func (s *server) models(w http.ResponseWriter, r *http.Request) error {
	list, err := s.Library.List(r.Context())
	if err != nil {
		return err
	}
	out := modelList{Object: "list", Data: []modelObject{}}
	seen := map[string]bool{}
	for i := range list {
		o := s.object(&list[i])
		if seen[o.ID] {
			o.ID = list[i].ID
		}
		seen[o.ID] = true
		out.Data = append(out.Data, o)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// model answers GET /v1/models/{model}.
func (s *server) model(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("model")
	m, err := s.Library.Show(r.Context(), name)
	if err != nil {
		return err
	}
	o := s.object(m)
	if name == m.ID {
		o.ID = name
	}
	writeJSON(w, http.StatusOK, o)
	return nil
}

func (s *server) object(m *Model) modelObject {
	o := modelObject{ID: m.Name, Object: "model", Created: s.started.Unix(), OwnedBy: "shoal", Shoal: m}
	if o.ID == "" {
		o.ID = m.ID
	}
	return o
}

func (s *server) embeddings(http.ResponseWriter, *http.Request) error {
	return &Error{Kind: BadInput, Param: "model", Message: "embeddings are not served: the models here generate text"}
}

func newID(prefix string) string { return prefix + strings.ToLower(rand.Text()) }
