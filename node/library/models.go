package library

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Describe describes a model of the store.
func Describe(m *store.Model) api.Model {
	man := m.Manifest()
	out := api.Model{
		ID: m.ID().String(), Name: m.Name(), Names: m.Names(), Architecture: man.Architecture, Quantization: man.Quantization,
		Licence: man.Licence, Parameters: man.Parameters, Context: int(man.Context), Blocks: int(man.Blocks), Width: int(man.Width),
		Size: man.Size(), Allocated: m.Allocated(), Pinned: m.Pinned(), Origins: m.Origins(), Complete: true,
	}
	var part, pins []int
	for i, held := range m.Holds() {
		out.Complete = out.Complete && held
		if !held && m.HeldOf([]int{i}) > 0 {
			part = append(part, i)
		}
	}
	out.Held = heldNames(m)
	out.HeldBytes, out.Partial, out.Damaged = m.Held(), store.ShardNames(man, part), damageOf(m)
	if pins = m.PinnedShards(); !out.Pinned {
		out.Pins = store.ShardNames(man, pins)
	}
	return out
}

// heldNames are the shards that are whole here: runs of blocks as spans, the others
// by their kind.
func heldNames(m *store.Model) []string {
	var whole []int
	for i, held := range m.Holds() {
		if held {
			whole = append(whole, i)
		}
	}
	out := []string{}
	for _, name := range store.ShardNames(m.Manifest(), whole) {
		var n int
		if _, err := fmt.Sscanf(name, "block %d", &n); err == nil {
			name = protocol.Span{From: n, To: n + 1}.String()
		}
		out = append(out, strings.TrimPrefix(name, "blocks "))
	}
	return out
}

// local finds a model in the store.
func (l *Library) local(name string) (*store.Model, error) {
	m, err := l.store.Find(name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, api.Errorf(api.UnknownModel, "%w", remedy.For(fmt.Errorf("there is no model %q here", name), remedy.ListModels))
	case err != nil:
		return nil, api.Errorf(api.BadInput, "%w", err)
	}
	return m, nil
}

// wantedSpan reads a span that may be empty (nil) or "all".
func wantedSpan(s string) (*protocol.Span, error) {
	if s == "" || s == "all" {
		return nil, nil
	}
	span, err := protocol.ParseSpan(s)
	if err != nil {
		return nil, api.Errorf(api.BadInput, "%s", err)
	}
	return &span, nil
}

// Add imports a model. Errors are api's BadInput if the source or the request is at
// fault, UnknownModel if the catalogue knows no origin, and Refused for want of room.
func (l *Library) Add(ctx context.Context, req api.AddRequest, progress func(api.Progress)) (*api.Model, error) {
	span, err := wantedSpan(req.Span)
	if err != nil {
		return nil, err
	}
	w := Want{Span: span, Progress: plain(progress)}
	var m *store.Model
	if req.Base != "" {
		m, err = l.addAdapter(ctx, req, w)
	} else if e := l.names.Find(req.Source); e != nil && req.Quantize == "" {
		m, err = l.importListed(ctx, e, req.Name, w)
	} else if m, err = l.unchanged(ctx, req, w); m == nil && err == nil {
		m, err = l.importSource(ctx, req, w)
	}
	if err != nil {
		return nil, l.input(err)
	}
	d := Describe(m)
	l.addHeader(m, &d)
	return &d, nil
}

// plain is a progress in bytes alone; both may be nil.
func plain(progress func(api.Progress)) func(done, total int64) {
	if progress == nil {
		return nil
	}
	return func(done, total int64) { progress(api.Progress{Done: done, Total: total}) }
}

// input marks errors that are the caller's to correct, and those for want of room.
func (l *Library) input(err error) error {
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case slices.ContainsFunc(badInput, is), slices.ContainsFunc(l.cfg.BadInput, is):
		return api.Errorf(api.BadInput, "%w", err)
	case is(store.ErrFull), is(store.ErrBusy):
		return api.Errorf(api.Refused, "%w", err)
	}
	return err
}

// badInput are errors that are the caller's to correct, besides those of Config.
var badInput = []error{store.ErrSource, store.ErrSpan, gguf.ErrFormat, protocol.ErrManifest, text.ErrNoTemplate}

// Pull fetches a model's shards from peers and origins. If they are whole here it
// checks every byte, and fetches what is damaged again. Errors are those of Find, Add
// and Fetch, of api's kinds.
func (l *Library) Pull(ctx context.Context, req api.PullRequest, progress func(api.Progress)) (*api.Model, error) {
	span, err := wantedSpan(req.Span)
	if err != nil {
		return nil, err
	}
	w := Want{May: Pull, Sure: true, Span: span, Progress: plain(progress)}
	if req.Import {
		w.May = Import
	}
	m, err := l.Find(ctx, req.Model, w)
	if err != nil {
		return nil, l.input(err)
	}
	shards := m.Shards()
	if span != nil {
		if all := m.Manifest().All(); !span.Valid(all.To) {
			return nil, api.Errorf(api.BadInput, "blocks %s: %s has blocks %s", span, m.Name(), all)
		}
		shards = m.Manifest().ShardsFor(*span)
	}
	if err := l.pull(ctx, m, shards, progress); err != nil {
		return nil, err
	}
	base, err := l.base(ctx, m)
	if err != nil {
		return nil, l.input(err)
	}
	if base != nil {
		of := base.Manifest().All()
		if span != nil {
			of = *span
		}
		if err := l.pull(ctx, base, base.Manifest().ShardsFor(of), progress); err != nil {
			return nil, err
		}
	}
	d := Describe(m)
	l.addHeader(m, &d)
	return &d, nil
}

func (l *Library) pull(ctx context.Context, m *store.Model, shards []int, progress func(api.Progress)) error {
	if m.Whole(shards) { // but they may be damaged
		if _, err := m.Verify(ctx, shards, false); err != nil {
			return err
		}
	}
	if err := l.Fetch(ctx, m, shards, progress); err != nil {
		return l.input(err)
	}
	return nil
}

// Remove deletes a model. Errors are those of Show, and api's Refused if it is served
// or in use.
func (l *Library) Remove(_ context.Context, name string) error {
	m, err := l.local(name)
	if err != nil {
		return err
	}
	if l.cfg.Served(m) {
		return api.Errorf(api.Refused, "%s is being served by this node; stop serving it first", m.Name())
	}
	if err := l.store.Remove(m.ID()); err != nil {
		return l.input(err)
	}
	l.names.forget(m.ID())
	l.sources.forget(m.ID())
	l.cfg.Changed()
	return nil
}
