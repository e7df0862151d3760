package api

import (
	"context"
	"net/http"
	"time"
)

// Controller starts and stops what a running node serves. It is safe for concurrent
// use.
type Controller interface {
	// Serve has the node serve a model, and returns when that answers. If it fails, or
	// ctx ends before, nothing that it has begun goes on.
	Serve(ctx context.Context, req ServeRequest, progress func(Progress)) (*Served, error)
	// Stop drains and unloads all that the node serves of a model.
	Stop(ctx context.Context, req StopRequest) error
	// Keep sets how long what the node serves of a model stays loaded after its last use,
	// until it is unloaded: 0: no longer than it is used, negative: for ever. It waits for
	// nothing, and does nothing if the node serves nothing of the model.
	Keep(model string, stays time.Duration)
	// Unload is Keep with 0, and waits a little until all of it is unloaded. Sessions
	// that are open end first.
	Unload(ctx context.Context, model string)
	// Load loads what was unloaded of a model, and returns when it is loaded, or cannot
	// be. The only error is the context's.
	Load(ctx context.Context, model string) error
}

// ServeRequest asks a node to serve a model. Model may be whatever the node's setting
// model takes; what is missing of it is fetched.
type ServeRequest struct {
	Model string `json:"model"`
	// Span is all, FROM-TO, or auto: all if that fits into the memory that is left of
	// what is lent, else a span of the node's choice. "" means auto.
	Span string `json:"span,omitempty"`
}

// Served is a span that a node serves now.
type Served struct {
	Model string `json:"model"` // the CID
	Name  string `json:"name"`
	From  int    `json:"from"` // its first block
	To    int    `json:"to"`   // the block after its last
	// Waiting says why no answer goes through it yet, which may be of a span that is
	// not all of a model; "": it answers.
	Waiting string `json:"waiting,omitempty"`
}

// StopRequest names a model to be served no more.
type StopRequest struct {
	Model string `json:"model"`
}

func (s *server) startServing(w http.ResponseWriter, r *http.Request) error {
	var req ServeRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Model == "" {
		return badParam("model", "is missing")
	}
	return s.work(w, r, func(ctx context.Context, p func(Progress)) (any, error) { return s.Controller.Serve(ctx, req, p) }, ownLine)
}

func (s *server) stopServing(w http.ResponseWriter, r *http.Request) error {
	var req StopRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Model == "" {
		return badParam("model", "is missing")
	}
	err := s.Controller.Stop(r.Context(), req)
	if err == nil {
		writeJSON(w, http.StatusOK, struct{}{})
	}
	return err
}

// Serve has the node serve a model, and returns when that answers; if it does already,
// at once. The Kind of the error is BadInput for a span that the model does not have or
// a source that is no model, UnknownModel, NoRoute if nobody has what is missing, or
// Refused if there is no room on the disk or in the memory lent.
func (c *Client) Serve(ctx context.Context, req ServeRequest, progress func(Progress)) (*Served, error) {
	if path := localFile(req.Model); path != "" {
		req.Model = path
	}
	var v Served
	return &v, c.work(ctx, "/shoal/v1/serve", req, progress, &v)
}

// Stop has the node serve a model no more; its sessions move to other nodes first. The
// Kind of the error is UnknownModel if the node does not serve it.
func (c *Client) Stop(ctx context.Context, model string) error {
	var none struct{}
	return c.post(ctx, "/shoal/v1/stop", StopRequest{model}, &none)
}
