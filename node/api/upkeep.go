package api

import (
	"context"
	"net/http"
)

// Keeper maintains the models on this node's disk.
type Keeper interface {
	Verify(ctx context.Context, req VerifyRequest, progress func(Progress)) ([]Verified, error)
	GC(ctx context.Context, req GCRequest) (*Freed, error)
	Pin(ctx context.Context, req PinRequest) (*Model, error)
	Drop(ctx context.Context, req DropRequest) (*Model, error)
}

// VerifyRequest checks everything that is held of one model, or of all, against its
// hashes. Damaged parts are dropped, so that they are never served.
type VerifyRequest struct {
	Model  string `json:"model,omitempty"`
	Repair bool   `json:"repair,omitempty"` // fetch damaged parts again, including those found earlier
}

// Verified is the result for one model.
type Verified struct {
	Model   string   `json:"model"` // the CID
	Name    string   `json:"name"`
	Checked int64    `json:"checked"` // bytes
	Damaged []Damage `json:"damaged"`
	// Repaired reports whether all of Damaged was fetched again; if not, Error says why.
	Repaired bool   `json:"repaired"`
	Error    string `json:"error,omitempty"`
}

// Damage is what was found damaged in a shard, now or earlier, and not yet fetched again.
type Damage struct {
	Shard  string `json:"shard"` // header, embedding, block N, output
	Leaves int    `json:"leaves"`
	Bytes  int64  `json:"bytes"`
}

// GCRequest frees disk space that nothing needs.
type GCRequest struct {
	DryRun bool `json:"dry_run,omitempty"`
	Unused bool `json:"unused,omitempty"` // also everything neither pinned nor in use, whatever the quota
}

// Freed is what a GCRequest freed, or would free, in bytes.
type Freed struct {
	Total   int64     `json:"bytes"`
	Left    int64     `json:"left_by_crashes"`
	Gaps    int64     `json:"gaps"` // allocated, but holding nothing
	Dropped []Dropped `json:"dropped"`
	DryRun  bool      `json:"dry_run"`
}

// Dropped are shards of a model that were dropped.
type Dropped struct {
	Model  string   `json:"model"`
	Name   string   `json:"name"`
	Shards []string `json:"shards"` // header, "blocks 4-12", "block 15", output
	Bytes  int64    `json:"bytes"`
}

// PinRequest protects blocks from the quota and GC, or ends that.
type PinRequest struct {
	Model string `json:"model"`
	Span  string `json:"span,omitempty"` // FROM-TO; "": all of the model
	Off   bool   `json:"off,omitempty"`
}

// DropRequest deletes the blocks of a span, and what no other block needs.
type DropRequest struct {
	Model string `json:"model"`
	Span  string `json:"span"`
}

// Lack is what is missing of a model that must be complete.
type Lack struct {
	Shards []string `json:"shards"` // in the form of Dropped
	Leaves int      `json:"leaves"`
	Bytes  int64    `json:"bytes"`
}

func (s *server) verify(w http.ResponseWriter, r *http.Request) error {
	var req VerifyRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	return s.work(w, r, func(ctx context.Context, p func(Progress)) (any, error) {
		list, err := s.Keeper.Verify(ctx, req, p)
		return noNull(list), err
	}, ownLine)
}

func (s *server) gc(w http.ResponseWriter, r *http.Request) error {
	var req GCRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	freed, err := s.Keeper.GC(r.Context(), req)
	if err == nil {
		writeJSON(w, http.StatusOK, freed)
	}
	return err
}

func (s *server) pin(w http.ResponseWriter, r *http.Request) error {
	var req PinRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Model == "" {
		return badParam("model", "is missing")
	}
	m, err := s.Keeper.Pin(r.Context(), req)
	if err == nil {
		writeJSON(w, http.StatusOK, m)
	}
	return err
}

func (s *server) drop(w http.ResponseWriter, r *http.Request) error {
	var req DropRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	switch "" {
	case req.Model:
		return badParam("model", "is missing")
	case req.Span:
		return badParam("span", "is missing: FROM-TO")
	}
	m, err := s.Keeper.Drop(r.Context(), req)
	if err == nil {
		writeJSON(w, http.StatusOK, m)
	}
	return err
}

// Verify checks one model, or all, and with Repair fetches damaged parts again. Errors:
// see Client.
func (c *Client) Verify(ctx context.Context, req VerifyRequest, progress func(Progress)) (list []Verified, err error) {
	err = c.work(ctx, "/shoal/v1/models/verify", req, progress, &list)
	return list, err
}

// GC frees disk space that nothing needs. Errors: see Client.
func (c *Client) GC(ctx context.Context, req GCRequest) (*Freed, error) {
	var f Freed
	return &f, c.post(ctx, "/shoal/v1/models/gc", req, &f)
}

// Pin protects blocks from the quota and GC, or ends that. Errors: see Client.
func (c *Client) Pin(ctx context.Context, req PinRequest) (*Model, error) {
	var m Model
	return &m, c.post(ctx, "/shoal/v1/models/pin", req, &m)
}

// Drop deletes blocks of a model. The Kind of the error is Refused if one is in
// use.
func (c *Client) Drop(ctx context.Context, req DropRequest) (*Model, error) {
	var m Model
	return &m, c.post(ctx, "/shoal/v1/models/drop", req, &m)
}
