package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"runtime/debug"
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
	leave, err := s.admit(min(len(j.reqs), mostTogether))
	if err != nil {
		return err
	}
	defer leave()
	return newAnswer(s, w, r, j).run()
}

// admit reserves room for n more answers until leave is called.
func (s *server) admit(n int) (leave func(), err error) {
	leave = func() { s.active.Add(-int64(n)) }
	if s.active.Add(int64(n)) > int64(s.MaxAnswers) {
		leave()
		return nil, Errorf(Refused, "this node is generating %d answers, which is its limit: try again soon", s.MaxAnswers)
	}
	return leave, nil
}

// generate calls the Generator.
func (s *server) generate(ctx context.Context, req *GenerateRequest, emit func(Event) error) error {
	return s.guarded("a generation", func() error { return visitOf(ctx).metered(ctx, s.Generator, req, emit) })
}

// guarded turns a panic in do into an error: one request must not end the node.
func (s *server) guarded(what string, do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.Log.Error(what+" panicked", "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err = Errorf(Internal, "shoal failed to handle this request: its log has more")
		}
	}()
	return do()
}

// models answers GET /v1/models. Models are listed by name; if several share one, the
// later ones are listed by CID.
func (s *server) models(w http.ResponseWriter, r *http.Request) error {
	list, err := s.Library.List(r.Context())
	if err != nil {
		return err
	}
	out := modelList{Object: "list", Data: []modelObject{}}
	seen := map[string]bool{}
	for i := range list {
		o := s.object(r, &list[i])
		if seen[o.ID] {
			o.ID = list[i].ID
		}
		seen[o.ID] = true
		out.Data = append(out.Data, o)
	}
	if speaksAnthropic(r) {
		return s.messageModels(w, r, out.Data)
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
	short := *m
	short.Template, short.Facts = "", nil
	o := s.object(r, &short)
	if name == m.ID {
		o.ID = name
	}
	if speaksAnthropic(r) {
		nameRequest(w)
		writeJSON(w, http.StatusOK, s.messageModel(o))
		return nil
	}
	writeJSON(w, http.StatusOK, o)
	return nil
}

// object describes a model. Its origin, which may be a path or a signed URL, is only for
// callers with the token.
func (s *server) object(r *http.Request, m *Model) modelObject {
	if !bearer(r, s.Token) {
		open := *m
		open.Origins, m = nil, &open
	}
	o := modelObject{ID: m.Name, Object: "model", Created: s.started.Unix(), OwnedBy: "shoal", Shoal: m}
	if o.ID == "" {
		o.ID = m.ID
	}
	return o
}

// described describes the model that a request names; without a name, the only one that
// there is.
func (s *server) described(ctx context.Context, name string) (*Model, error) {
	if name != "" {
		return s.Library.Show(ctx, name)
	}
	list, err := s.Library.List(ctx)
	if err != nil {
		return nil, err
	}
	if len(list) == 1 {
		return s.Library.Show(ctx, list[0].ID)
	}
	names := make([]string, 0, mostNamed)
	for _, m := range list[:min(len(list), mostNamed)] {
		names = append(names, cmp.Or(m.Name, m.ID))
	}
	if len(names) == 0 {
		return nil, badParam("model", "is missing, and there is no model here")
	}
	return nil, badParam("model", "is missing: name one of %s", strings.Join(names, ", "))
}

// mostNamed is how many models an error names.
const mostNamed = 10

func newID(prefix string) string { return prefix + strings.ToLower(rand.Text()) }
